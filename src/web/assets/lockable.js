// What the pages do beyond what they do without it.
"use strict";

// Buttons that copy what stands in an element.
for (const button of document.querySelectorAll("[data-copy]")) {
  const words = button.textContent;
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = words), 2000);
  });
}

// Passwords that can be read while they are typed.
for (const choice of document.querySelectorAll("[data-reveal]")) {
  choice.hidden = false;
  const field = document.getElementById(choice.dataset.reveal);
  choice.addEventListener("change", (event) => (field.type = event.target.checked ? "text" : "password"));
}

// Leases that run down. The server's clock counts: what differs is learnt from
// when the page was made.
function distance(seconds) {
  const [count, unit] =
    seconds < 60 ? [seconds, "second"]
    : seconds < 3600 ? [Math.floor(seconds / 60), "minute"]
    : seconds < 86400 ? [Math.floor(seconds / 3600), "hour"]
    : [Math.floor(seconds / 86400), "day"];
  return `${count} ${unit}${count === 1 ? "" : "s"}`;
}

function count() {
  for (const time of document.querySelectorAll("[data-countdown]")) {
    const rest = Math.round((new Date(time.dateTime) - Date.now()) / 1000);
    time.textContent = rest > 0 ? `in ${distance(rest)}` : "now";
    time.classList.toggle("soon", rest <= 15);
  }
}

if (document.querySelector("[data-countdown], [data-live]")) {
  count();
  setInterval(count, 1000);
}

// Locks that come and go while somebody looks.
const locks = document.querySelector("[data-live]");
if (locks) {
  const state = document.getElementById("live-state");
  const events = new EventSource(locks.dataset.live);
  // A stream ends now and then, and the browser asks again at once.
  let late;
  events.addEventListener("open", () => {
    clearTimeout(late);
    state.textContent = "This list is live.";
  });
  events.addEventListener("error", () => {
    clearTimeout(late);
    late = setTimeout(() => (state.textContent = "This list is not live now; trying again."), 3000);
  });
  events.addEventListener("locks", (event) => {
    // Whoever is at a link with the keyboard stays there.
    const at = document.activeElement?.getAttribute("href");
    const had = at && locks.contains(document.activeElement);
    locks.innerHTML = event.data;
    if (had) {
      (locks.querySelector(`a[href="${CSS.escape(at)}"]`) ?? document.getElementById("main")).focus();
    }
    count();
  });
}

// The try-out: the token goes to the API and nowhere else.
const tryOut = document.getElementById("try-out");
if (tryOut) {
  tryOut.hidden = false;
  const answer = document.getElementById("try-answer");
  tryOut.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const call = event.submitter.value;
    const token = document.getElementById("try-token").value.trim();
    const name = document.getElementById("try-lock").value;
    try {
      const response = await fetch(`/v1/${call}/${encodeURIComponent(name)}`, {
        method: "POST",
        credentials: "omit",
        headers: { Authorization: `Basic ${btoa(`${token}:`)}` },
      });
      answer.textContent = `${response.status} ${JSON.stringify(await response.json(), null, 2)}`;
    } catch (error) {
      answer.textContent = `No answer: ${error.message}`;
    }
  });
}
