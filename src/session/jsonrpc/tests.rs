//! The records of JSON-RPC, without an agent.

use proptest::prelude::*;

use super::protocol::{Cancellation, JsonRpcProtocol};
use crate::record::Record;
use crate::session::protocol::{Incoming, Protocol, RpcError, WireId};

const PLAIN: JsonRpcProtocol = JsonRpcProtocol { cancellation: Cancellation::None };
const LSP: JsonRpcProtocol = JsonRpcProtocol { cancellation: Cancellation::Lsp };
const MCP: JsonRpcProtocol = JsonRpcProtocol { cancellation: Cancellation::Mcp };

fn read(protocol: &JsonRpcProtocol, text: &str) -> Incoming {
    protocol.classify(&Record::from(text.as_bytes().to_vec()))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("JSON is text")
}

#[test]
fn agent_id_is_returned_byte_for_byte() {
    // A server may count in floats or write escapes. An id that is parsed and printed again is another
    // id, and the server would not find its request.
    for id in ["7", "-3", "1.50", "1e3", r#""req-7""#, r#""\u00e9\n""#, "18446744073709551616"] {
        let request = format!(r#"{{"jsonrpc":"2.0","id": {id} ,"method":"m","params":[1, 2]}}"#);
        let Incoming::Request { id: wire, method, body } = read(&PLAIN, &request) else {
            panic!("{request}")
        };
        assert_eq!((&*wire.0, &*method, body.as_bytes()), (id, "m", &b"[1, 2]"[..]));
        let answer = text(PLAIN.response(&wire, Ok(b"{\"a\": 1}")));
        assert_eq!(answer, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"a": 1}}}}"#));
    }
}

#[test]
fn other_records_are_data() {
    // Notifications and malformed records must reach the reader and complete no request.
    for data in [
        r#"{"jsonrpc":"2.0","method":"progress","params":{"id":1}}"#,
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse error"}}"#,
        r#"{"id":1}"#,
        r#"{"type":"assistant"}"#,
        r#"{"method":7,"id":1}"#,
        r#"{"id":1,"id":2,"method":"m"}"#,
        "[]",
        r#"[{"jsonrpc":"2.0","method":"progress"}]"#,
        "7",
        // A cancellation only with `Cancellation::Lsp`.
        r#"{"method":"$/cancelRequest","params":{"id":1}}"#,
    ] {
        assert!(matches!(read(&PLAIN, data), Incoming::Data), "{data}");
    }
}

#[test]
fn response_keeps_its_id_and_bytes() {
    // A response that is matched or reformatted wrongly completes the wrong request, or changes data.
    let ok = read(&PLAIN, r#"{"id":12,"result": {"x" : 1} }"#);
    let Incoming::Response { id: Some(12), outcome: Ok(body) } = ok else { panic!("{ok:?}") };
    assert_eq!(body.as_bytes(), br#"{"x" : 1}"#);
    let null = read(&PLAIN, r#"{"id":12,"result":null}"#);
    assert!(matches!(null, Incoming::Response { id: Some(12), outcome: Ok(_) }), "{null:?}");
    let both =
        read(&PLAIN, r#"{"id":12,"result":null,"error":{"code":5,"message":"no","data":[1]}}"#);
    let Incoming::Response { outcome: Err(failure), .. } = both else { panic!("{both:?}") };
    assert_eq!(failure, RpcError::new("no").with_code(5).with_data(b"[1]".to_vec().into()));
    // The ids of a session are numbers. The same digits as text are another id.
    let other = read(&PLAIN, r#"{"id":"12","result":1}"#);
    assert!(matches!(other, Incoming::Response { id: None, .. }), "{other:?}");
    let odd = read(&PLAIN, r#"{"id":1,"error":"just text"}"#);
    assert!(matches!(odd, Incoming::Response { id: Some(1), outcome: Err(_) }), "{odd:?}");
}

#[test]
fn batch_with_a_request_is_refused() {
    // An old client may batch its calls. Without a response it would wait without end.
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","method":"b"}]"#;
    let Incoming::Refused { response: answer, .. } = read(&PLAIN, batch) else { panic!("{batch}") };
    let answer = text(answer);
    assert!(
        answer.starts_with(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"#),
        "{answer}"
    );
    assert!(answer.contains("batches are not supported"), "{answer}");
    for no_request in [r#"[]"#, r#"[1,"2"]"#, r#"[{"method":"a"}]"#, r#"[["2.0",1,"a"]]"#] {
        assert!(matches!(read(&PLAIN, no_request), Incoming::Data), "{no_request}");
    }
    let odd = read(&PLAIN, r#"{"id":[1],"method":"m"}"#);
    assert!(matches!(odd, Incoming::Refused { .. }), "{odd:?}");
}

#[test]
fn cancellation_follows_the_protocol() {
    // LSP and MCP cancel with different records, and MCP forbids it for `initialize`.
    assert_eq!(PLAIN.cancellation(3, "m"), None);
    let lsp = text(LSP.cancellation(3, "m").expect("a record"));
    assert_eq!(lsp, r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":3}}"#);
    let mcp = text(MCP.cancellation(3, "m").expect("a record"));
    let wanted = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}"#;
    assert_eq!(mcp, wanted);
    assert_eq!(MCP.cancellation(3, "initialize"), None, "MCP forbids it");

    let incoming = r#"{"method":"$/cancelRequest","params":{"id":"a"}}"#;
    let Incoming::Cancel { id } = read(&LSP, incoming) else { panic!("{incoming}") };
    assert_eq!(id, WireId(r#""a""#.into()));
    let answer = text(LSP.cancelled_response(&id).expect("LSP answers a cancelled request"));
    assert!(answer.contains(r#""id":"a""#) && answer.contains("-32800"), "{answer}");
    let incoming = r#"{"method":"notifications/cancelled","params":{"requestId":9,"reason":"x"}}"#;
    assert!(matches!(read(&MCP, incoming), Incoming::Cancel { .. }));
    // Positional params have no id.
    let incoming = r#"{"method":"$/cancelRequest","params":["a"]}"#;
    assert!(matches!(read(&LSP, incoming), Incoming::Data));
    assert_eq!(MCP.cancelled_response(&id), None);
}

#[test]
fn null_body_sends_no_params() {
    // Some servers refuse `"params":null`.
    assert_eq!(
        text(PLAIN.request(1, "ping", b"null")),
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#
    );
    let with = text(PLAIN.request(1, "a\"b", b"{\"x\":1}"));
    assert_eq!(with, r#"{"jsonrpc":"2.0","id":1,"method":"a\"b","params":{"x":1}}"#);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(2000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// No text panics the parser or yields an id that it does not contain.
    #[test]
    fn any_text_can_be_classified(text in concat!(
        r#"[\{\[]("id"|"method"|"result"|"error"|"params"|[:,"\{\}\[\] 0-9a-z\-]"#,
        r#"|null|"requestId"){0,40}[\}\]]?"#
    )) {
        for protocol in [&PLAIN, &LSP, &MCP] {
            if let Incoming::Request { id, .. } | Incoming::Cancel { id } = read(protocol, &text) {
                prop_assert!(text.contains(&*id.0));
            }
        }
    }
}
