// The stored completions: browse, filter, delete.
import { element, explain, request, showNotice } from "./api.js";

const PAGE = 20;
const byId = (id) => document.getElementById(id);
const filter = byId("filter");
let last = ""; // id of the last completion on the page
let shown = 0;

export function listModels(names) {
  const known = new Set([...filter.elements.model.options].map((option) => option.value));
  for (const name of names) if (!known.has(name)) filter.elements.model.append(element("option", { value: name }, name));
}

export function openStore() {
  last = "";
  shown = 0;
  byId("rows").replaceChildren();
  return more();
}

async function more() {
  const query = new URLSearchParams({ limit: PAGE, order: filter.elements.order.value });
  const [key, ...value] = filter.elements.metadata.value.split("=");
  if (last) query.set("after", last);
  if (filter.elements.model.value) query.set("model", filter.elements.model.value);
  if (key) query.set(`metadata[${key.trim()}]`, value.join("=").trim());
  let page;
  try {
    page = await request("GET", `/v1/chat/completions?${query}`);
  } catch (error) {
    byId("more").hidden = true;
    byId("store-status").textContent = "";
    return showNotice(explain(error));
  }
  showNotice("");
  listModels(page.data.map((one) => one.model));
  byId("rows").append(...page.data.map(row));
  last = page.data.at(-1)?.id ?? last;
  shown += page.data.length;
  byId("more").hidden = !page.has_more;
  count(page.has_more);
}

function count(hasMore) {
  const noun = shown === 1 ? "completion" : "completions";
  byId("store-status").textContent = shown ? `${shown} ${noun}${hasMore ? " so far" : ""}` : "There is no stored completion that fits. The chat stores answers where you allow it under Sampling.";
}

function textOf(content) {
  return typeof content === "string" ? content : JSON.stringify(content);
}

function row(one) {
  const prompt = one.input.findLast((message) => message.role === "user") ?? one.input.at(-1);
  const time = new Date(1000 * one.created).toLocaleString();
  const title = `${time} · ${one.model} · ${textOf(prompt?.content ?? "").slice(0, 120)}`;
  const body = element("details", { class: "row", "data-id": one.id }, element("summary", {}, title));
  body.addEventListener("toggle", () => body.childElementCount === 1 && body.append(...contents(one, body)));
  return body;
}

function contents(one, body) {
  const messages = one.input.map((message) => part(message.role, textOf(message.content)));
  const answers = one.choices.map((choice) => {
    const cut = choice.finish_reason === "length" ? ", cut off" : "";
    const many = one.choices.length > 1 ? ` ${choice.index + 1}` : "";
    return part(`answer${many}${cut}`, choice.message.content ?? JSON.stringify(choice.message.tool_calls));
  });
  const facts = { id: one.id, ...one.metadata };
  for (const name of ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"])
    if (one[name] !== undefined && one[name] !== null) facts[name] = one[name];
  const list = element("dl", {}, ...Object.entries(facts).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]));
  return [...messages.flat(), ...answers.flat(), list, deletion(one.id, body)];
}

function part(title, text) {
  return [element("h2", {}, title), element("div", { class: "text", dir: "auto" }, text)];
}

function deletion(id, body) {
  const line = element("p", { class: "line" });
  const first = element("button", { type: "button", class: "delete" }, "Delete");
  const sure = element("button", { type: "button", class: "sure" }, "Delete it for good");
  const keep = element("button", { type: "button" }, "Keep it");
  first.addEventListener("click", () => {
    line.replaceChildren(sure, keep);
    keep.focus();
  });
  keep.addEventListener("click", () => line.replaceChildren(first));
  sure.addEventListener("click", async () => {
    sure.disabled = true;
    try {
      await request("DELETE", `/v1/chat/completions/${encodeURIComponent(id)}`);
    } catch (error) {
      sure.disabled = false;
      if (error.status !== 404) return showNotice(explain(error));
    }
    if (id === last) last = body.previousElementSibling?.dataset.id ?? ""; // the next page starts after one that is there
    body.remove();
    shown -= 1;
    count(!byId("more").hidden);
  });
  line.append(first);
  return line;
}

filter.addEventListener("submit", (event) => {
  event.preventDefault();
  openStore();
});
byId("more").addEventListener("click", more);
