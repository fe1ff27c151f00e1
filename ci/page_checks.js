// What ci/check_book.py looks for in a page and axe-core cannot see. Each check returns faults, one line of text
// each. Colours are drawn on a canvas, so that the browser resolves them.
globalThis.pageChecks = (() => {
  const article = document.querySelector("article") || document.body;
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

  // A colour as red, green, blue and opacity in 0..1.
  const rgba = (css) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = css;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255);
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);

  // The background of a node.
  const behind = (node) => {
    const layers = [];
    for (let up = node; up; up = up.parentElement) layers.push(rgba(getComputedStyle(up).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [1, 1, 1, 1]);
  };

  // Contrast as WCAG 2.2 defines it, 1 to 21.
  const luminance = (color) => {
    const [r, g, b] = color.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };

  // Sphinx gives a picture without alt text its file name instead, which axe-core accepts.
  function broken() {
    const faults = [];
    for (const image of article.querySelectorAll("img")) {
      const alt = (image.getAttribute("alt") || "").trim();
      const name = (image.getAttribute("src") || "").slice(0, 100);
      if (!alt || /^\S+\.(png|svg|jpe?g|gif|webp)$/i.test(alt)) faults.push(`no alt text: ${name}`);
      if (image.complete && !image.naturalWidth) faults.push(`picture does not load: ${name}`);
    }
    for (const math of article.querySelectorAll(".math"))
      if (!math.querySelector("mjx-container"))
        faults.push(`math not rendered: ${math.textContent.slice(0, 80)}`);
    for (const link of document.querySelectorAll("[href^='/'], [src^='/']"))
      faults.push(`not relative: ${link.getAttribute("href") || link.getAttribute("src")}`.slice(0, 100));
    for (const error of article.querySelectorAll("[data-mjx-error]"))
      faults.push(`math with an error: ${error.getAttribute("data-mjx-error")}`);
    for (const output of article.querySelectorAll(".output.traceback, .output.stderr"))
      if (!output.closest(".tag_raises-exception"))
        faults.push(`error output: ${output.textContent.trim().slice(0, 120)}`);
    for (const text of article.querySelectorAll("p"))
      if (text.textContent.startsWith("| ")) faults.push(`rows outside a table: ${text.textContent.slice(0, 80)}`);
    return faults;
  }

  // What is wider than the window, unless a box around it scrolls or hides it.
  function wide() {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    const held = (node) => {
      for (let up = node.parentElement; up && up !== document.body; up = up.parentElement)
        if (getComputedStyle(up).overflowX !== "visible") return true;
      return false;
    };
    return [...document.querySelectorAll("body *")]
      .filter((node) => node.getBoundingClientRect().right > width + 1 && !held(node))
      .slice(0, 3)
      .map((node) => `${node.tagName.toLowerCase()}.${node.className}`.slice(0, 80))
      .concat(`page is ${document.documentElement.scrollWidth} px wide, the window ${width} px`);
  }

  // Shapes and texts of drawings in the page (inline SVG) that stand out from the page neither by fill nor by
  // stroke, through the filters of dark mode. `aside` selects what a drawing can be read without.
  function marks({ least, leastOfText, aside }) {
    const faults = new Map();
    const shapes = ":is(path, circle, ellipse, rect, line, polyline, polygon, text, tspan)";
    for (const shape of article.querySelectorAll(`svg ${shapes}:not(mjx-container *, defs *)`)) {
      const box = shape.getBoundingClientRect();
      const style = getComputedStyle(shape);
      const seen = shape.checkVisibility({ opacityProperty: true, visibilityProperty: true });
      if (!seen || !(box.width + box.height) || (aside && shape.matches(aside))) continue;
      const written = shape.matches("text, tspan");
      if (written && ![...shape.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
      let opacity = 1;
      let filter = "none";
      for (let up = shape; up; up = up.parentElement) {
        opacity *= getComputedStyle(up).opacity;
        if (getComputedStyle(up).filter !== "none") filter = getComputedStyle(up).filter;
      }
      const under = behind(shape.ownerSVGElement);
      const ratios = ["fill", "stroke"].flatMap((paint) => {
        if (style[paint] === "none" || (paint === "stroke" && !parseFloat(style.strokeWidth))) return [];
        canvas.filter = filter;
        const color = rgba(style[paint]);
        canvas.filter = "none";
        color[3] *= opacity * style[`${paint}Opacity`];
        return color[3] ? [contrast(over(color, under), under)] : [];
      });
      const kind = `${shape.tagName}.${shape.className.baseVal}`;
      const ratio = Math.max(...ratios);
      if (ratios.length && ratio < (written ? leastOfText : least) && !faults.has(kind))
        faults.set(kind, `mark of contrast ${ratio.toFixed(1)}: ${kind}`);
    }
    return [...faults.values()];
  }

  // Figures are pictures, so their pixels are read, through the filter of dark mode if there is one. Edges and
  // see-through areas blend a colour with the background and keep its hue: of each hue that covers more than
  // 0.2 % of a figure, the strongest pixels have to stand out. Photographs have the class no-invert.
  function figures({ least, aside }) {
    const faults = [];
    for (const image of article.querySelectorAll("img")) {
      if (!image.checkVisibility() || !image.naturalWidth || (aside && image.matches(aside))) continue;
      const { naturalWidth: width, naturalHeight: height } = image;
      const under = behind(image);
      const sheet = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
      sheet.fillStyle = `rgb(${under.slice(0, 3).map((v) => v * 255).join(" ")})`;
      sheet.fillRect(0, 0, width, height);
      sheet.filter = getComputedStyle(image).filter;
      sheet.drawImage(image, 0, 0);
      const { data } = sheet.getImageData(0, 0, width, height);
      const counts = new Map();
      for (let i = 0; i < data.length; i += 4) {
        const key = (data[i] << 16) | (data[i + 1] << 8) | data[i + 2];
        counts.set(key, (counts.get(key) || 0) + 1);
      }
      const back = [...data.slice(0, 3)].map((v) => v / 255); // the corner is the figure's background
      const hues = new Map();
      for (const [key, count] of counts) {
        const [r, g, b] = [key >> 16, (key >> 8) & 255, key & 255].map((v) => v / 255);
        const high = Math.max(r, g, b);
        const chroma = high - Math.min(r, g, b);
        if (chroma < 0.15) continue;
        const turn = high === r ? g - b + 6 * chroma : high === g ? b - r + 2 * chroma : r - g + 4 * chroma;
        const hue = Math.round((turn / chroma) * 2) % 12;
        const ratio = contrast([r, g, b], back);
        const held = hues.get(hue) || { all: 0, strong: 0, best: 0, color: "" };
        held.all += count;
        if (ratio >= least) held.strong += count;
        if (ratio > held.best) Object.assign(held, { best: ratio, color: `rgb(${[r, g, b].map((v) => v * 255)})` });
        hues.set(hue, held);
      }
      const name = (image.getAttribute("alt") || "").slice(0, 60);
      for (const { all, strong, best, color } of hues.values())
        if (all > 0.002 * width * height && strong < 0.01 * all)
          faults.push(`figure with marks of contrast ${best.toFixed(1)}, ${color}: ${name}`);
    }
    return faults;
  }

  // What a slider's group shows: its text, pictures and drawings, as one text.
  function shown(slider) {
    const group = slider.closest("[role=group], .mdr-player, fieldset, section, article") || document.body;
    const visible = [...group.querySelectorAll("img, svg, canvas")].filter((node) => node.checkVisibility());
    return [group.innerText, ...visible.map((node) => node.currentSrc || node.outerHTML)].join(" ");
  }

  return { broken, wide, marks, figures, shown };
})();
