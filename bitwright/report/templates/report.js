"use strict";

// Everything here is an addition: without it the page shows the four versions of each crop side by side.
for (const block of document.querySelectorAll(".comparison.comparable")) {
  const stage = block.querySelector(".stage");
  const under = stage.querySelector(".under");
  const over = stage.querySelector(".over");
  const slider = stage.querySelector("input");
  const left = stage.querySelector(".tag.left");
  const tiles = [...block.querySelectorAll(".tile")];
  over.src = block.querySelector('.tile[data-key="engine"] img').src;

  const choose = (tile) => {
    under.src = tile.querySelector("img").src;
    under.classList.toggle("pixelated", tile.dataset.key === "low");
    left.textContent = tile.dataset.label;
    for (const other of tiles) other.classList.toggle("chosen", other === tile);
    for (const other of tiles) other.querySelector("button")?.setAttribute("aria-pressed", String(other === tile));
  };
  for (const tile of tiles) {
    if (tile.dataset.key === "engine" || !tile.querySelector("img")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "pick";
    button.setAttribute("aria-label", "Compare the engine with: " + tile.dataset.label);
    button.addEventListener("click", () => choose(tile));
    tile.append(button);
  }
  slider.addEventListener("input", () => stage.style.setProperty("--split", slider.value + "%"));
  const difference = block.querySelector(".difference");
  difference.addEventListener("click", () => {
    const on = stage.classList.toggle("differing");
    difference.setAttribute("aria-pressed", String(on));
  });
  choose(tiles.find((tile) => tile.dataset.key === "float"));
  block.classList.add("live");
}

for (const button of document.querySelectorAll("button.copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1600);
  });
}

addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
