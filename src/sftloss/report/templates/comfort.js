// Comfort only: copy buttons for what can be run or pasted. The page is complete without it.
"use strict";
const words = document.currentScript.dataset;
for (const pre of document.querySelectorAll(".fix pre")) {
  if (!navigator.clipboard) break;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = words.copy;
  button.addEventListener("click", () => {
    navigator.clipboard.writeText(pre.textContent).then(
      () => { button.textContent = words.copied; },
      () => { button.textContent = words.select; },
    );
    setTimeout(() => { button.textContent = words.copy; }, 2000);
  });
  pre.parentElement.prepend(button);
}
