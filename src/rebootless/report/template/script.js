"use strict";
// Long runs of equal instructions are folded; without scripts they are simply there.
for (const body of document.querySelectorAll("tbody.fold")) {
  const columns = body.closest("table").classList.contains("single") ? 3 : 5;
  const bar = document.createElement("tbody");
  const cell = bar.insertRow().insertCell();
  const button = document.createElement("button");
  cell.colSpan = columns;
  cell.className = "bar";
  button.type = "button";
  const show = (open) => {
    body.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    button.textContent = (open ? "hide " : "show ") + body.dataset.count + " equal instructions";
  };
  button.addEventListener("click", () => show(body.hidden));
  cell.append(button);
  body.before(bar);
  show(false);
}
// A link to a place inside of something closed opens it.
const reveal = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let at = target.closest("details"); at; at = at.parentElement.closest("details")) {
    at.open = true;
  }
  target.scrollIntoView();
};
addEventListener("hashchange", reveal);
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details.file")) one.open = true;
});
if (location.hash) reveal();
