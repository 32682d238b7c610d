// Keys press the buttons; a form that the server does not answer is kept and sent again.
"use strict";
const RETRY = 2000; // ms
const reason = document.getElementById("reason");
const ballot = document.getElementById("ballot");
const said = document.getElementById("said");
let sending = false;
let wanted = null; // the button that waits for a reason

function tell(text) {
  said.textContent = text;
  said.hidden = !text;
}

function field(element) {
  return element instanceof HTMLElement && element.matches("input, select, textarea");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
  if (event.target === reason && event.key === "Enter") {
    event.preventDefault();
    reason.blur();
    if (wanted && reason.value.trim()) wanted.click();
    return;
  }
  if (field(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "Enter" && event.target instanceof HTMLButtonElement) return;
  if (ranked(event.key)) {
    event.preventDefault();
    return;
  }
  const found = document.querySelector(`[data-key="${CSS.escape(event.key)}"]:not([disabled])`);
  if (!found) return;
  event.preventDefault();
  if (field(found)) found.focus();
  else found.click();
});

function ranked(key) {
  const boxes = [...document.querySelectorAll("[data-rank]")];
  if (!boxes.length) return false;
  if (key === "Backspace") boxes.forEach((box) => (box.value = ""));
  else if (/^[1-9]$/.test(key) && boxes[key - 1] && !boxes[key - 1].value)
    boxes[key - 1].value = 1 + Math.max(0, ...boxes.map((box) => Number(box.value)));
  else return /^[0-9]$/.test(key);
  return true;
}

document.addEventListener("submit", (event) => {
  const form = event.target, button = event.submitter;
  if (!["/vote", "/undo", "/unskip"].includes(form.getAttribute("action"))) return;
  event.preventDefault();
  if (sending) return;
  if (form === ballot && button?.value !== "skip") {
    if (reason.hasAttribute("data-required") && !reason.value.trim()) {
      wanted = button;
      reason.focus();
      return tell("Say why, then press Enter.");
    }
  }
  sending = true;
  send(form.action, new URLSearchParams(new FormData(form, button)));
});

async function send(url, body) {
  let response;
  try {
    response = await fetch(url, { method: "POST", body, credentials: "same-origin" });
  } catch {
    tell("No word from the server. Your answer is kept on this page and sent again until there is one; leave it open.");
    setTimeout(send, RETRY, url, body);
    return;
  }
  if (response.ok) {
    if (ballot) sessionStorage.removeItem(`reason ${ballot.dataset.item}`);
    return location.replace("/");
  }
  sending = false;
  tell(await response.text());
}

if (reason) {
  const name = `reason ${ballot.dataset.item}`;
  reason.value ||= sessionStorage.getItem(name) ?? "";
  reason.addEventListener("input", () => sessionStorage.setItem(name, reason.value));
}
