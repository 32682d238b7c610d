// Requests to the server's API, and what the page's other parts share.
const KEY = "jaxtrain API key";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

// An element with attributes and children; texts are texts, never HTML.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

export function showNotice(text) {
  const notice = document.getElementById("notice");
  notice.textContent = text;
  notice.hidden = !text;
}

// What to tell a person about an error; asks for the key where it is missing or wrong.
export function explain(error) {
  if (error.status === 401) {
    document.getElementById("key-form").hidden = false;
    document.getElementById("key").focus();
    return sessionStorage.getItem(KEY) ? "The server refuses this key." : "This server needs its API key.";
  }
  if (error instanceof ApiError) return error.message;
  return "The server cannot be reached. Is it still running?";
}

async function send(method, path, body, signal) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...(body && { "Content-Type": "application/json" }) };
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal });
  if (response.ok) return response;
  const text = await response.text();
  let message = text;
  try {
    message = JSON.parse(text).error.message;
  } catch {
    message ||= `The server answers with status ${response.status}.`; // no error object, as of a proxy
  }
  throw new ApiError(response.status, message);
}

export async function request(method, path) {
  return JSON.parse(await (await send(method, path)).text(), exact);
}

// A whole number that JavaScript would round, such as a seed, stays exact where the browser shows its digits.
function exact(_, value, context) {
  return Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source ? BigInt(context.source) : value;
}

// The digits of a field as a number of a request's JSON, none of them lost.
export function wholeNumber(digits) {
  return JSON.rawJSON ? JSON.rawJSON(BigInt(digits).toString()) : Number(digits);
}

// Calls onChunk with each chunk of a streamed completion. Rejects with ApiError, or an AbortError once it is stopped.
export async function stream(body, onChunk, signal) {
  const response = await send("POST", "/v1/chat/completions", body, signal);
  const reader = response.body.getReader(), decoder = new TextDecoder();
  for (let rest = "", done = false; !done; ) {
    const part = await reader.read();
    done = part.done;
    rest += decoder.decode(part.value, { stream: !done });
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(500, chunk.error.message);
      onChunk(chunk);
    }
  }
  throw new ApiError(0, "The connection ended before the answer did.");
}
