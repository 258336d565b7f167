// Shows new and changed orders without a reload. Each event is a row of the table.
const orders = document.getElementById("orders");
const status = document.getElementById("live");
const updates = new EventSource("/orders/live");
let opened = false;

updates.addEventListener("open", () => {
    // After an interruption, orders may be missing.
    if (opened) location.reload();
    opened = true;
    status.textContent = "This page is live.";
});
updates.addEventListener("reload", () => location.reload());
updates.addEventListener("error", () => (status.textContent = "Connecting again …"));
updates.addEventListener("order", (event) => {
    const template = document.createElement("template");
    template.innerHTML = event.data;
    const row = template.content.firstElementChild;
    const shown = document.getElementById(row.id);
    if (shown) shown.replaceWith(row);
    else orders.prepend(row);
    row.classList.add("changed");
});
