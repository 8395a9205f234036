// Makes pages pleasanter. Everything works without it.
"use strict";

const typing = (element) => element.matches("input:not([type=checkbox]), select, textarea");

// "/" goes to the search box, the arrows go from row to row, left goes up, right opens.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || typing(event.target)) return;
  if (event.key === "/") {
    const search = document.querySelector("input[type=search]");
    search.focus();
    search.select();
    event.preventDefault();
    return;
  }
  const links = [...document.querySelectorAll(".rows tbody tr")]
    .map((row) => row.querySelector("a"))
    .filter((link) => link !== null);
  const at = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const next = event.key === "ArrowDown" ? at + 1 : at < 0 ? -1 : at - 1;
    if (next < 0 || next >= links.length) return;
    links[next].focus();
    event.preventDefault();
  } else if (event.key === "ArrowRight" && at >= 0) {
    links[at].click();
    event.preventDefault();
  } else if (event.key === "ArrowLeft" && at >= 0) {
    const up = document.querySelector("a[rel=up]");
    if (up !== null) up.click();
  }
});

// A button that copies, beside each command line.
if (navigator.clipboard) {
  for (const box of document.querySelectorAll(".copy")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(box.querySelector("pre").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    box.append(button);
  }
}

// Two can be compared: a third tick takes the oldest one away.
const ticked = [];
for (const box of document.querySelectorAll("input[type=checkbox][name=image]")) {
  box.addEventListener("change", () => {
    const known = ticked.indexOf(box);
    if (known >= 0) ticked.splice(known, 1);
    if (box.checked) ticked.push(box);
    while (ticked.length > 2) ticked.shift().checked = false;
  });
}
