// Optional enhancements: every page works without this script.
"use strict";

// Copy buttons.
for (const button of document.querySelectorAll("[data-copy]")) {
  const label = button.textContent;
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 2000);
  });
}

// "Show password" check boxes.
for (const choice of document.querySelectorAll("[data-reveal]")) {
  choice.hidden = false;
  const field = document.getElementById(choice.dataset.reveal);
  choice.addEventListener("change", (event) => (field.type = event.target.checked ? "text" : "password"));
}

// Countdowns to the expiry of leases, by the browser's clock.
function format(seconds) {
  const [count, unit] =
    seconds < 60 ? [seconds, "second"]
    : seconds < 3600 ? [Math.floor(seconds / 60), "minute"]
    : seconds < 86400 ? [Math.floor(seconds / 3600), "hour"]
    : [Math.floor(seconds / 86400), "day"];
  return `${count} ${unit}${count === 1 ? "" : "s"}`;
}

function updateCountdowns() {
  for (const time of document.querySelectorAll("[data-countdown]")) {
    const left = Math.round((new Date(time.dateTime) - Date.now()) / 1000);
    time.textContent = left > 0 ? `in ${format(left)}` : "now";
    time.classList.toggle("soon", left <= 15);
  }
}

if (document.querySelector("[data-countdown], [data-live]")) {
  updateCountdowns();
  setInterval(updateCountdowns, 1000);
}

// Live updates of the list of locks.
const locks = document.querySelector("[data-live]");
if (locks) {
  const state = document.getElementById("live-state");
  const events = new EventSource(locks.dataset.live);
  // The server ends a stream regularly and the browser reconnects at once; report only longer
  // interruptions.
  let offline;
  events.addEventListener("open", () => {
    clearTimeout(offline);
    state.textContent = "Live updates are on.";
  });
  events.addEventListener("error", () => {
    clearTimeout(offline);
    offline = setTimeout(() => (state.textContent = "Live updates are interrupted; reconnecting."), 3000);
  });
  events.addEventListener("locks", (event) => {
    // Keep the keyboard focus on the same link.
    const href = document.activeElement?.getAttribute("href");
    const hadFocus = href && locks.contains(document.activeElement);
    locks.innerHTML = event.data;
    if (hadFocus) {
      (locks.querySelector(`a[href="${CSS.escape(href)}"]`) ?? document.getElementById("main")).focus();
    }
    updateCountdowns();
  });
}

// "Try it": sends the token to the API and nowhere else.
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
      answer.textContent = `No response: ${error.message}`;
    }
  });
}
