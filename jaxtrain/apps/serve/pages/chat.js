// The conversation: one message goes to all chosen models, each of which has its own history of answers.
import { element, explain, request, setKey, showNotice, stream, wholeNumber } from "./api.js";
import { openStore, listModels } from "./store.js";
import { TokenView } from "./tokens.js";

const SETTINGS = "jaxtrain sampling";
const NEUTRAL = { temperature: "1", top_p: "1", top_k: "0", min_p: "0", repetition_penalty: "1" };
const byId = (id) => document.getElementById(id);
const message = byId("message"), sampling = byId("sampling");
let models = [];
let singleTurn = new Set(); // of models, those that were trained on one turn alone
let histories = new Map(); // model -> messages
let sent = []; // what the person wrote, oldest first
let running = null; // the AbortController of the answers that are being written

function chosen() {
  const boxes = [...byId("models").querySelectorAll("input:checked")];
  return models.length === 1 ? models : boxes.map((box) => box.value);
}

function busy(on) {
  byId("send").hidden = on;
  byId("stop").hidden = !on;
  byId("again").disabled = on || !sent.length;
  byId("reset").disabled = on || !sent.length;
  if (!on) running = null;
}

async function loadModels() {
  try {
    const served = (await request("GET", "/v1/models")).data;
    models = served.map((one) => one.id);
    singleTurn = new Set(served.filter((one) => one.single_turn).map((one) => one.id));
  } catch (error) {
    return showNotice(explain(error));
  }
  showNotice("");
  byId("key-form").hidden = true;
  listModels(models);
  const boxes = models.map((name, i) =>
    element("label", { class: "check" }, element("input", { type: "checkbox", value: name, checked: i < 2 }), name),
  );
  const legend = byId("models").querySelector("legend");
  byId("models").replaceChildren(legend, ...boxes);
  byId("models").hidden = models.length < 2;
  const names = [...singleTurn].join(" and "), one = singleTurn.size === 1;
  byId("single").textContent = `${names} ${one ? "was" : "were"} trained on single questions: ${one ? "it gets" : "they get"} each message alone, without the ones before it.`;
  byId("single").hidden = !singleTurn.size;
  document.title = `Chat: ${models.join(", ")}`;
}

// The parameters that differ from what the server does without them.
function parameters() {
  const body = {};
  for (const [name, neutral] of Object.entries(NEUTRAL)) {
    const value = sampling[name].value;
    if (value !== "" && value !== neutral) body[name] = Number(value);
  }
  for (const name of ["max_tokens", "seed"]) if (sampling[name].value !== "") body[name] = wholeNumber(sampling[name].value);
  if (sampling.stop.value) body.stop = sampling.stop.value;
  if (sampling.logprobs.checked) Object.assign(body, { logprobs: true, top_logprobs: 5 });
  if (sampling.store.checked) Object.assign(body, { store: true, metadata: { source: "chat" } });
  return body;
}

function history(model) {
  if (!histories.has(model))
    histories.set(model, sampling.system.value.trim() ? [{ role: "system", content: sampling.system.value }] : []);
  const messages = histories.get(model);
  return singleTurn.has(model) ? messages.filter((one) => one.role === "system") : messages;
}

async function ask(text) {
  const names = chosen();
  if (!names.length) return showNotice("Choose a model that answers.");
  if (!sampling.reportValidity()) return (byId("settings").open = true);
  showNotice("");
  byId("empty").hidden = true;
  running = new AbortController();
  busy(true);
  const answers = element("div", { class: "answers" });
  byId("turns").append(element("div", { class: "turn" }, element("div", { class: "user text", dir: "auto" }, text), answers));
  byId("legend").hidden = !sampling.logprobs.checked && !document.querySelector(".tokens");
  const common = parameters(), signal = running.signal;
  const done = await Promise.all(names.map((name) => answer(name, text, common, answers, signal)));
  sent.push(text);
  busy(false);
  if (!done.some(Boolean) && !message.value) message.value = text; // nothing typed is lost
  byId("status").textContent = done.every(Boolean) ? "answered" : "";
}

// Writes a model's answer; whether there is one.
async function answer(model, text, common, answers, signal) {
  const info = element("div", { class: "token-info", hidden: true }), meta = element("p", { class: "meta" });
  const thought = element("div", { class: "text thought" }), body = element("div", { class: "text", dir: "auto" });
  const thinking = element("details", { hidden: true, open: true }, element("summary", {}, "Thought"), thought);
  answers.append(element("section", { class: "answer", "aria-label": model }, element("h2", {}, model), thinking, body, info, meta));
  const tokens = common.logprobs ? new TokenView(body, info) : null;
  const messages = [...history(model), { role: "user", content: text }];
  let content = "", reason = "", usage = null, first = 0, problem = "";
  const start = performance.now();
  const take = (chunk) => {
    usage = chunk.usage ?? usage;
    const choice = chunk.choices[0];
    if (!choice) return;
    first ||= performance.now();
    reason = choice.finish_reason ?? reason;
    if (choice.delta.reasoning_content) {
      thinking.hidden = false;
      thought.append(choice.delta.reasoning_content);
    }
    content += choice.delta.content ?? "";
    if (tokens) tokens.add(choice.logprobs?.content ?? []);
    else body.append(choice.delta.content ?? "");
    if (choice.delta.tool_calls) body.append(JSON.stringify(choice.delta.tool_calls.map((one) => one.function), null, 1));
  };
  meta.textContent = "waiting …";
  try {
    const sampled = { stream: true, stream_options: { include_usage: true } };
    await stream({ model, messages, ...sampled, ...common }, take, signal);
  } catch (error) {
    problem = error.name === "AbortError" ? "stopped" : explain(error);
    if (error.name !== "AbortError") meta.classList.add("bad");
  }
  const note = tokens && !problem ? tokens.finish(content) : "";
  const seconds = (performance.now() - start) / 1000;
  const speed = usage ? `, ${(usage.completion_tokens / seconds).toFixed(0)} tokens/s` : "";
  const size = usage && `${usage.completion_tokens} ${usage.completion_tokens === 1 ? "token" : "tokens"}${speed}, the first after ${((first - start) / 1000).toFixed(2)} s`;
  const cut = reason === "length" && "cut off at the most tokens";
  meta.textContent = [problem, size, cut, note].filter(Boolean).join("; ");
  if (!content && !problem) body.append("(nothing)");
  const whole = !problem || problem === "stopped";
  if (whole) histories.set(model, [...messages, { role: "assistant", content }]);
  return whole;
}

function reset() {
  histories = new Map();
  sent = [];
  byId("turns").replaceChildren();
  byId("empty").hidden = false;
  byId("status").textContent = "";
  busy(false);
  message.focus();
}

// Takes the last turn back, and sends its message again.
function again() {
  const text = sent.pop();
  for (const [model, messages] of histories)
    if (messages.at(-2)?.content === text && messages.at(-1).role === "assistant") histories.set(model, messages.slice(0, -2));
  byId("turns").lastChild.remove();
  ask(text);
}

function submit() {
  const text = message.value.trim();
  if (!text || running) return;
  message.value = "";
  ask(text);
}

function show(name) {
  for (const one of ["chat", "store"]) {
    byId(one).hidden = one !== name;
    byId(`show-${one}`).setAttribute("aria-pressed", one === name);
  }
  if (name === "store") openStore();
}

function restoreSettings() {
  for (const [name, value] of Object.entries(JSON.parse(localStorage.getItem(SETTINGS) ?? "{}"))) {
    const field = sampling[name];
    if (field?.type === "checkbox") field.checked = value;
    else if (field) field.value = value;
  }
}

sampling.addEventListener("change", () => {
  const fields = [...sampling.elements].map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value]);
  localStorage.setItem(SETTINGS, JSON.stringify(Object.fromEntries(fields)));
});
sampling.addEventListener("submit", (event) => event.preventDefault());
byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
message.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    submit();
  } else if (event.key === "ArrowUp" && !message.value && sent.length) {
    event.preventDefault();
    message.value = sent.at(-1);
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
byId("stop").addEventListener("click", () => running?.abort());
byId("again").addEventListener("click", again);
byId("reset").addEventListener("click", reset);
byId("show-chat").addEventListener("click", () => show("chat"));
byId("show-store").addEventListener("click", () => show("store"));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key").value);
  loadModels();
});
restoreSettings();
loadModels();
