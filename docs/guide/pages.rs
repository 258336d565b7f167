//! Each page of the guide, so that `cargo test --doc -p guide` compiles its code blocks and runs those that can run
//! without a server.
//!
//! The blocks of all pages are one program, in which every receiver is registered. A block whose receiver has no sender,
//! or that checks every model, is therefore marked `standalone_crate`.

macro_rules! pages {
    ($($module:ident: $file:literal,)*) => { $(
        #[cfg(doctest)]
        #[doc = include_str!(concat!("src/", $file))]
        mod $module {}
    )* };
}

pages! {
    getting_started: "getting-started.md",
    models: "models.md",
    related_rows: "related-rows.md",
    migrations: "migrations.md",
    signals: "signals.md",
    transactions: "transactions.md",
    durable: "durable.md",
    operations: "operations.md",
    nats: "nats.md",
    bulk_writes: "bulk-writes.md",
    testing: "testing.md",
    existing_service: "existing-service.md",
    mixing: "mixing.md",
    errors: "errors.md",
    limits: "limits.md",
    performance: "performance.md",
    internals: "internals.md",
    faq: "faq.md",
    from_django: "from-django.md",
    from_rails: "from-rails.md",
    from_laravel: "from-laravel.md",
}
