//! The pure parts of the client, on input that no server should send.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::bus::{Bus, Feed};
use super::era::{Identity, Object, Probed, initialized, params, probed, raw};
use super::input::needed;
use super::listen::Filter;
use crate::record::Record;
use crate::session::protocol::Observer;

/// Pieces of MCP in any order: mostly JSON, often with a value of the wrong type.
const PIECES: &str = concat!(
    r#"(\{|\}|\[|\]|,|:|"x"|null|true|-1|7\.0|"2026-07-28"|"2025-11-25"|"resultType":"#,
    r#"|"input_required"|"inputRequests":|"requestState":|"supportedVersions":|"protocolVersion":"#,
    r#"|"capabilities":|"_meta":|"io\.modelcontextprotocol/subscriptionId":|"method":|"params":"#,
    r#"|"notifications/cancelled"|"requestId":|"uri":|\{"a":\{"method":"m"\}\}){0,24}"#
);

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A server may send anything. No reader of it panics, and none takes an array for an object.
    #[test]
    fn any_answer_can_be_read(pieces in PIECES, wrapped in any::<bool>()) {
        let text = if wrapped { format!("{{{pieces}}}") } else { pieces };
        let record = Record::from(text.clone().into_bytes());
        let is_object = text.starts_with('{');
        let answer = probed(Ok(record.clone()));
        prop_assert!(is_object || matches!(answer, Probed::Legacy("2025-11-25")), "{answer:?}");
        prop_assert!(is_object || initialized(&record).is_err());
        prop_assert!(is_object || needed(&record, false).is_err());
        prop_assert!(is_object || text == "null" || params(&record).is_err());
        for is_modern in [true, false] {
            let bus = Bus::new(Arc::new(AtomicBool::new(is_modern)), None);
            bus.add(7, &Arc::new(Feed::new(Filter::new().tools().resource("x"), None)));
            prop_assert!(!bus.on_data(&record).keep, "nothing waits for a reader");
        }
    }
}

#[test]
fn caller_keeps_the_digits_of_its_numbers() {
    // An amount that is parsed as a float and written again is another amount.
    let body = br#"{"amount":0.10000000000000000001,"id":123456789012345678901234567890}"#;
    let mut params = params(&Record::from(body.to_vec())).expect("an object");
    let info = raw("host").expect("JSON");
    let identity = Identity { info, capabilities: Object::new() };
    identity.stamp("2026-07-28", &mut params).expect("stamped");
    let sent = serde_json::to_string(&params).expect("JSON");
    assert!(
        sent.ends_with(r#"},"amount":0.10000000000000000001,"id":123456789012345678901234567890}"#),
        "{sent}"
    );
}
