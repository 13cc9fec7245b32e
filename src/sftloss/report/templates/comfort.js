// Comfort only: copy buttons for what can be run or pasted. The page is complete without it.
"use strict";
for (const pre of document.querySelectorAll(".fix pre")) {
  if (!navigator.clipboard) break;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", () => {
    navigator.clipboard.writeText(pre.textContent).then(
      () => { button.textContent = "Copied"; },
      () => { button.textContent = "Select and copy"; },
    );
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  pre.parentElement.prepend(button);
}
