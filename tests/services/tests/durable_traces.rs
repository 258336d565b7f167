//! The trace of a request continues in the deliveries of what it has saved, as OpenTelemetry exports it.
#![allow(missing_docs)]

#[path = "../../common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::sync::LazyLock;

use common::{another, table};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanId, Status, TraceContextExt, TraceId, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use serde::{Deserialize, Serialize};
use sqlx_signals::Error;
use sqlx_signals::durable::{DeliveryFilter, Propagator, set_propagator};
use sqlx_signals::prelude::*;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;

#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "orders")]
struct Order {
    id: Option<i64>,
    text: String,
}

#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "parcels")]
struct Parcel {
    id: Option<i64>,
    text: String,
}

#[receiver(post_save, sender = Order, durable)]
async fn pack(saved: PostSave<'_, Order>, conn: &mut Conn<'_>) -> Result<()> {
    Parcel { id: None, text: saved.instance.text.clone() }.save(conn).await?;
    Ok(())
}

#[receiver(post_save, sender = Parcel, durable(max_attempts = 1))]
async fn send(saved: PostSave<'_, Parcel>, _delivery: Delivery<'_>) -> Result<()> {
    if saved.instance.text == "fails" { Err(Error::other("no stamp")) } else { Ok(()) }
}

/// A message of another service.
#[derive(Debug, Signal, Serialize, Deserialize)]
#[signal(subscribe = "shop.order_paid")]
struct OrderPaid {
    order: i64,
}

#[receiver(OrderPaid, durable(at_least_once))]
async fn ship(_: &OrderPaid) {}

/// Carries the trace as the header `traceparent`.
struct OpenTelemetry;

impl Propagator for OpenTelemetry {
    fn current(&self) -> Option<String> {
        let mut headers = HashMap::new();
        TraceContextPropagator::new().inject_context(&Span::current().context(), &mut headers);
        headers.remove("traceparent")
    }

    fn join(&self, span: &Span, context: &str) {
        let headers = HashMap::from([("traceparent".to_owned(), context.to_owned())]);
        let _ = span.set_parent(TraceContextPropagator::new().extract(&headers));
    }
}

static EXPORTED: LazyLock<InMemorySpanExporter> = LazyLock::new(|| {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).unwrap();
    assert!(set_propagator(OpenTelemetry) && !set_propagator(OpenTelemetry));
    exporter
});

/// The finished spans of a trace with this name.
fn spans(trace: TraceId, name: &str) -> Vec<SpanData> {
    let all = EXPORTED.get_finished_spans().unwrap().into_iter();
    all.filter(|span| span.span_context.trace_id() == trace && span.name == name).collect()
}

fn attribute(span: &SpanData, name: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
    found.map(|attribute| attribute.value.to_string()).unwrap_or_default()
}

/// Saves an order in a request, runs its deliveries in a worker of another pool, and returns the trace of the request.
async fn request(db: &Db, text: &str) -> TraceId {
    LazyLock::force(&EXPORTED);
    table(db, "orders", "text TEXT NOT NULL").await;
    table(db, "parcels", "text TEXT NOT NULL").await;
    db.deliveries().setup().await.unwrap();
    let request = tracing::info_span!("request");
    let trace = request.context().span().span_context().trace_id();
    let mut order = Order { id: None, text: text.into() };
    order.save(db).instrument(request).await.unwrap();
    let there = another(db, Db::options()).await;
    let worker = there.deliveries().worker().spawn().await.unwrap();
    for _ in 0..1000 {
        if spans(trace, "delivery").len() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    worker.shutdown().await.unwrap();
    there.close().await;
    trace
}

on_every_database! {
    async fn a_delivery_is_a_part_of_the_trace_in_which_its_event_was_stored(db: Db) {
        let trace = request(&db, "a").await;
        let deliveries = spans(trace, "delivery");
        let mut receivers: Vec<_> = deliveries.iter().map(|span| attribute(span, "receiver")).collect();
        receivers.sort();
        assert_eq!(receivers, ["durable_traces::pack", "durable_traces::send"]);
        assert!(deliveries.iter().all(|span| span.parent_span_id != SpanId::INVALID));
        assert!(deliveries.iter().all(|span| attribute(span, "attempt") == "1" && span.status == Status::Unset));
        // The receiver and what it saves are in the same trace.
        assert_eq!((spans(trace, "request").len(), spans(trace, "receiver").len()), (1, 2));
    }

    async fn a_received_message_is_a_part_of_the_trace_of_its_publisher(db: Db) {
        LazyLock::force(&EXPORTED);
        db.deliveries().setup().await.unwrap();
        let trace = tracing::info_span!("publisher").context().span().span_context().trace_id();
        let message = format!(
            r#"{{ "id": "1", "source": "shop", "traceparent": "00-{trace}-00f067aa0ba902b7-01", "data": {{ "order": 7 }} }}"#
        );
        db.inbox().receive("shop.order_paid", message.as_bytes()).await.unwrap();
        sqlx_signals::testing::deliver(&db).await.unwrap().assert_ran::<ship>(1);
        assert_eq!((spans(trace, "receive").len(), spans(trace, "delivery").len()), (1, 1));
        // The delivery was stored by the span that has received the message.
        assert_eq!(spans(trace, "delivery")[0].parent_span_id, spans(trace, "receive")[0].span_context.span_id());
    }

    async fn the_span_of_a_failed_delivery_is_an_error(db: Db) {
        let trace = request(&db, "fails").await;
        let failed: Vec<_> = spans(trace, "delivery").into_iter().filter(|span| span.status != Status::Unset).collect();
        assert_eq!(failed.len(), 1);
        assert!(matches!(failed[0].status, Status::Error { .. }) && attribute(&failed[0], "receiver").ends_with("send"));
        let dead = db.deliveries().list(DeliveryFilter::new()).await.unwrap().remove(0);
        let context = dead.context.unwrap();
        assert!(context.contains(&format!("\"traceparent\":\"00-{trace}-")) && context.contains("caused_by"), "{context}");
    }
}
