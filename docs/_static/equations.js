// Renders what Sphinx writes between \( \) and \[ \]; KaTeX is loaded on the pages that have equations.
document.addEventListener("DOMContentLoaded", () => {
  if (!window.katex || !window.renderMathInElement) return;
  for (const element of document.querySelectorAll(".math")) {
    renderMathInElement(element, {
      delimiters: [
        { left: "\\(", right: "\\)", display: false },
        { left: "\\[", right: "\\]", display: true },
      ],
      throwOnError: false,
    });
  }
});
