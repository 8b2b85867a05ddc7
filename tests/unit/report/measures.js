// The lowest contrast of a text with what is behind it, and where that is.
const contrast = () => {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const linear = (c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (at) => {
    for (; at; at = at.parentElement) {
      const color = channels(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0.99) return color;
    }
    return [255, 255, 255];
  };
  let worst = [99, ""];
  for (const at of document.querySelectorAll("body *:not(svg *):not(script)")) {
    const own = [...at.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !at.checkVisibility()) continue;
    const [a, b] = [light(channels(getComputedStyle(at).color)), light(behind(at))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const where = `${at.tagName}.${at.className} ${at.textContent.slice(0, 40)}`;
    if (ratio < worst[0]) worst = [ratio, where];
  }
  return worst;
};
// What sticks out of the window and is not inside of a box that scrolls.
const overflow = () =>
  [...document.querySelectorAll("body *:not(svg *)")]
    .filter((at) => !at.closest(".scroll") && !at.closest(".skip") && at.checkVisibility())
    .filter((at) => at.getBoundingClientRect().right > innerWidth + 1)
    .map((at) => `${at.tagName}.${at.className}`);
