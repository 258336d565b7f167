//! The rules of the JSON format of CloudEvents 1.0.

use serde_json::Value;

/// What is wrong with an event, by the [table of attributes](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#context-attributes)
/// and by the [JSON schema](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/cloudevents.json).
pub(crate) fn mistakes(event: &Value) -> Vec<String> {
    let Some(attributes) = event.as_object() else { return vec!["not an object".to_owned()] };
    let mut mistakes = Vec::new();
    for required in ["id", "source", "specversion", "type"] {
        if !attributes.contains_key(required) {
            mistakes.push(format!("`{required}` is missing"));
        }
    }
    for (name, value) in attributes {
        let text = value.as_str();
        let is_valid = match name.as_str() {
            "specversion" => text == Some("1.0"),
            "id" | "type" | "subject" => text.is_some_and(|text| !text.is_empty()),
            // References to a URI, and not empty.
            "source" | "dataschema" => {
                text.is_some_and(|text| !text.is_empty() && !text.contains(char::is_whitespace))
            }
            "datacontenttype" => text.is_some_and(|text| text.split('/').count() == 2),
            "time" => text.is_some_and(is_rfc3339),
            "data" => !attributes.contains_key("data_base64"),
            "data_base64" => text.is_some(),
            // An extension: its name is of lower-case letters and digits, and its value is of a simple type.
            name => {
                let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
                let is_simple = value.is_boolean() || value.is_i64() || text.is_some();
                let is_empty_key = name == "partitionkey" && text == Some("");
                is_name && name.len() <= 20 && is_simple && !is_empty_key
            }
        };
        if !is_valid {
            mistakes.push(format!("`{name}` is {value}"));
        }
    }
    mistakes
}

/// Whether a text is a time in UTC as `2026-01-31T12:30:00.123Z`.
fn is_rfc3339(text: &str) -> bool {
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    let Some((date, time)) = text.strip_suffix('Z').and_then(|text| text.split_once('T')) else {
        return false;
    };
    let date: Vec<_> = date.split('-').collect();
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let time: Vec<_> = time.split(':').collect();
    let lengths = |parts: &[&str]| parts.iter().map(|part| part.len()).collect::<Vec<_>>();
    lengths(&date) == [4, 2, 2]
        && lengths(&time) == [2, 2, 2]
        && !fraction.is_empty()
        && date.iter().chain(&time).all(|part| digits(part))
        && digits(fraction)
}

#[test]
fn a_wrong_event_is_found() {
    let valid = serde_json::json!({
        "specversion": "1.0", "id": "1", "source": "shop", "type": "shop.order_paid", "subject": "7",
        "time": "2026-01-31T12:30:00.123Z", "datacontenttype": "application/json", "data": {}, "partitionkey": "7",
    });
    assert_eq!(mistakes(&valid), [""; 0]);
    for (name, wrong) in [
        ("specversion", "0.3"),
        ("id", ""),
        ("source", "my shop"),
        ("type", ""),
        ("subject", ""),
        ("time", "2026-01-31 12:30"),
        ("datacontenttype", "json"),
        ("data_base64", ""),
        ("partitionkey", ""),
        ("Correlation", "1"),
    ] {
        let mut event = valid.clone();
        event[name] = wrong.into();
        assert_eq!(mistakes(&event).len(), 1, "{name}: {:?}", mistakes(&event));
    }
    for required in ["id", "source", "specversion", "type"] {
        let mut event = valid.clone();
        event.as_object_mut().unwrap().remove(required);
        assert_eq!(mistakes(&event), [format!("`{required}` is missing")]);
    }
}
