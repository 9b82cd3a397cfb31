// A choice in the form shows its comparison at once.
"use strict";

for (const pick of document.querySelectorAll("#ask select")) pick.addEventListener("change", () => pick.form.requestSubmit());
