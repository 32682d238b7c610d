// Keys press the buttons; a form that does not reach the server is sent again until it does.
"use strict";
const RETRY = 2000; // ms
const reason = document.getElementById("reason");
const voteForm = document.getElementById("vote-form");
const notice = document.getElementById("notice");
let sending = false;
let pending = null; // the button whose vote waits for a reason

function showNotice(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

function isField(element) {
  return element instanceof HTMLElement && element.matches("input, select, textarea");
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
  if (event.target === reason && event.key === "Enter") {
    event.preventDefault();
    reason.blur();
    if (pending && reason.value.trim()) pending.click();
    return;
  }
  if (isField(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.key === "Enter" && event.target instanceof HTMLButtonElement) return;
  if (rankByKey(event.key)) {
    event.preventDefault();
    return;
  }
  const target = document.querySelector(`[data-key="${CSS.escape(event.key)}"]:not([disabled])`);
  if (!target) return;
  event.preventDefault();
  if (isField(target)) target.focus();
  else target.click();
});

// Sets the next rank of the response with this number; whether the key was one for ranks.
function rankByKey(key) {
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
  if (form === voteForm && button?.value !== "skip") {
    if (reason.hasAttribute("data-required") && !reason.value.trim()) {
      pending = button;
      reason.focus();
      return showNotice("Give a reason, then press Enter.");
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
    showNotice("The server cannot be reached. Your answer is stored on this page and sent again until it arrives; leave the page open.");
    setTimeout(send, RETRY, url, body);
    return;
  }
  if (response.ok) {
    if (voteForm) sessionStorage.removeItem(`reason ${voteForm.dataset.item}`);
    return location.replace("/");
  }
  sending = false;
  showNotice(await response.text());
}

if (reason) {
  const name = `reason ${voteForm.dataset.item}`;
  reason.value ||= sessionStorage.getItem(name) ?? "";
  reason.addEventListener("input", () => sessionStorage.setItem(name, reason.value));
}
