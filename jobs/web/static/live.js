// Keeps the part of a page that is marked `data-live` up to date. Without this script a page reloads itself instead.
"use strict";

const EVERY = 2000, LONGEST = 30000;

function follow(part) {
  const note = document.querySelector("[data-live-note]");
  let wait = EVERY, lost = null;

  function say(text) {
    if (note && note.textContent !== text) note.textContent = text;
  }

  async function look() {
    if (document.hidden) return setTimeout(look, EVERY);
    try {
      const answer = await fetch(part.dataset.live, {
        headers: { "X-Requested-With": "live" }, redirect: "error", signal: AbortSignal.timeout(20000),
      });
      if (answer.status === 401) {
        part.classList.add("stale");
        return say("You are no longer logged in: what is shown may be old. Reload the page to log in again.");
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const text = await answer.text();
      if (text !== part.dataset.shown) {
        // The server has escaped every name in it, as in the page itself.
        part.innerHTML = text;
        part.dataset.shown = text;
      }
      lost = null;
      wait = EVERY;
      part.classList.remove("stale");
      say("");
      if (answer.headers.get("X-Live") === "over") return;
    } catch {
      lost = lost || new Date();
      wait = Math.min(2 * wait, LONGEST);
      part.classList.add("stale");
      say("No answer since " + lost.toLocaleTimeString() + ": what is shown may be old. Trying again.");
    }
    setTimeout(look, wait);
  }

  setTimeout(look, EVERY);
}

document.querySelectorAll("[data-live]").forEach(follow);
