// The tokens of an answer, coloured by their probability, with the alternatives of the one that is pointed at.
import { element } from "./api.js";

const LEVELS = [0.9, 0.5, 0.1, 0.01]; // a token is p0 from the first on, p4 below the last

export function level(logprob) {
  const probability = Math.exp(logprob);
  const at = LEVELS.findIndex((least) => probability >= least);
  return at < 0 ? LEVELS.length : at;
}

export function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  return value < 0.01 ? "< 0.01 %" : `${value >= 10 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : value.toFixed(2)} %`;
}

function visible(token) {
  return token.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "␣") || "(nothing)";
}

export class TokenView {
  // box: where the tokens stand; info: where the one that is pointed at is described.
  constructor(box, info) {
    this.box = box;
    this.info = info;
    this.decoder = new TextDecoder();
    this.text = "";
    this.waiting = []; // tokens whose bytes are not whole characters yet
    box.classList.add("tokens");
    box.tabIndex = 0;
    box.addEventListener("keydown", (event) => this.move(event));
  }

  add(entries) {
    for (const entry of entries) {
      const text = this.decoder.decode(new Uint8Array(entry.bytes ?? []), { stream: true });
      this.waiting.push(entry);
      if (!text) continue;
      const group = this.waiting;
      this.waiting = [];
      this.text += text;
      const lowest = Math.min(...group.map((one) => one.logprob));
      const show = () => this.describe(group);
      this.box.append(
        element("span", { class: `p${level(lowest)}`, tabindex: -1, onmouseenter: show, onfocus: show }, text),
      );
    }
  }

  // Makes the tokens the text of the answer: a template may drop the space before it, a stop string cut its last token.
  finish(text) {
    const before = this.text.indexOf(text);
    if (before < 0) {
      this.box.replaceChildren(text);
      return "the tokens are not those of the text, and are not coloured";
    }
    this.cut(this.text.length - before - text.length, "lastChild", (piece, n) => piece.slice(0, piece.length - n));
    this.cut(before, "firstChild", (piece, n) => piece.slice(n));
    this.text = text;
    return "";
  }

  // Takes `count` characters off one end.
  cut(count, end, without) {
    while (count > 0) {
      const piece = this.box[end], n = Math.min(count, piece.textContent.length);
      piece.textContent = without(piece.textContent, n);
      if (!piece.textContent) piece.remove();
      count -= n;
    }
  }

  describe(group) {
    this.info.hidden = false;
    this.info.replaceChildren();
    for (const one of group) {
      const line = element("div", {}, element("b", {}, visible(one.token)), ` ${percent(one.logprob)} (log-probability ${one.logprob.toFixed(2).replace("-0.00", "0.00")})`);
      const others = (one.top_logprobs ?? []).filter((other) => other.token !== one.token);
      if (others.length) line.append("; instead: ");
      others.forEach((other, i) => line.append(i ? ", " : "", element("b", {}, visible(other.token)), ` ${percent(other.logprob)}`));
      this.info.append(line);
    }
  }

  move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const spans = [...this.box.children], at = spans.indexOf(document.activeElement);
    spans[at < 0 ? 0 : Math.min(Math.max(at + step, 0), spans.length - 1)]?.focus();
  }
}
