#[derive(Model)]
#[model(table = "shop.line items", rename_all = "camelCase")]
struct LineItem {
    #[model(primary_key)]
    order_id: i64,
    #[model(primary_key, column = "no")]
    number: i32,
    #[model(unique)]
    bar_code: String,
    #[model(json)]
    options: Vec<String>,
    #[model(generated)]
    total: i64,
    #[model(auto_now_add)]
    created_at: DateTime<Utc>,
    #[model(auto_now)]
    changed_at: Option<DateTime<Utc>>,
    #[model(version)]
    version: i32,
    #[model(skip)]
    cache: Cache,
}
