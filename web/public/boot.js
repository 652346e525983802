// Runs before the first paint, so that a remembered theme or language never flashes the other one.
// A file of its own because the Content-Security-Policy refuses inline scripts.
(function () {
  var root = document.documentElement;
  try {
    var theme = localStorage.getItem('busbar.theme');
    if (theme === 'light' || theme === 'dark') root.dataset.theme = theme;
    var language = localStorage.getItem('busbar.language') || navigator.language || 'en';
    root.lang = /^zh/i.test(language) ? 'zh-CN' : 'en';
  } catch (_) {
    // Storage may be forbidden; the system's theme and English are good defaults.
  }
})();
