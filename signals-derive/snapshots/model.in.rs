#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
    email: String,
}
