//! JSON-RPC on the wire, without an agent.

use proptest::prelude::*;

use super::dialect::{Cancellation, JsonRpc};
use crate::record::Record;
use crate::session::dialect::{Dialect, Incoming, WireId};
use crate::session::failure::RpcError;

const PLAIN: JsonRpc = JsonRpc { cancellation: Cancellation::None };
const LSP: JsonRpc = JsonRpc { cancellation: Cancellation::Lsp };
const MCP: JsonRpc = JsonRpc { cancellation: Cancellation::Mcp };

fn read(dialect: &JsonRpc, text: &str) -> Incoming {
    dialect.read(&Record::from(text.as_bytes().to_vec()))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("JSON is text")
}

#[test]
fn an_id_of_the_agent_comes_back_byte_for_byte() {
    // The story: a server counts in floats or writes escapes. An id that is parsed and printed
    // again is another id, and its answer is lost.
    for id in ["7", "-3", "1.50", "1e3", r#""req-7""#, r#""\u00e9\n""#, "18446744073709551616"] {
        let request = format!(r#"{{"jsonrpc":"2.0","id": {id} ,"method":"m","params":[1, 2]}}"#);
        let Incoming::Request { id: wire, method, body } = read(&PLAIN, &request) else {
            panic!("{request}")
        };
        assert_eq!((&*wire.0, &*method, body.as_bytes()), (id, "m", &b"[1, 2]"[..]));
        let answer = text(PLAIN.answer(&wire, Ok(b"{\"a\": 1}")));
        assert_eq!(answer, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"a": 1}}}}"#));
    }
}

#[test]
fn what_is_no_request_and_no_answer_is_data() {
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
        // Only with its setting on is it a cancellation.
        r#"{"method":"$/cancelRequest","params":{"id":1}}"#,
    ] {
        assert!(matches!(read(&PLAIN, data), Incoming::Data), "{data}");
    }
}

#[test]
fn an_answer_finds_its_request_and_keeps_its_bytes() {
    let ok = read(&PLAIN, r#"{"id":12,"result": {"x" : 1} }"#);
    let Incoming::Reply { id: Some(12), outcome: Ok(body) } = ok else { panic!("{ok:?}") };
    assert_eq!(body.as_bytes(), br#"{"x" : 1}"#);
    let null = read(&PLAIN, r#"{"id":12,"result":null}"#);
    assert!(matches!(null, Incoming::Reply { id: Some(12), outcome: Ok(_) }), "{null:?}");
    let both =
        read(&PLAIN, r#"{"id":12,"result":null,"error":{"code":5,"message":"no","data":[1]}}"#);
    let Incoming::Reply { outcome: Err(failure), .. } = both else { panic!("{both:?}") };
    assert_eq!(failure, RpcError::new("no").with_code(5).with_data(b"[1]".to_vec().into()));
    // Ours are numbers; the same digits as text are somebody else's.
    let other = read(&PLAIN, r#"{"id":"12","result":1}"#);
    assert!(matches!(other, Incoming::Reply { id: None, .. }), "{other:?}");
    let odd = read(&PLAIN, r#"{"id":1,"error":"just text"}"#);
    assert!(matches!(odd, Incoming::Reply { id: Some(1), outcome: Err(_) }), "{odd:?}");
}

#[test]
fn a_batch_is_refused_aloud_where_somebody_waits() {
    // The story: an old client batches its calls. Silence would leave it waiting for ever.
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","method":"b"}]"#;
    let Incoming::Refused { answer, .. } = read(&PLAIN, batch) else { panic!("{batch}") };
    let answer = text(answer);
    assert!(
        answer.starts_with(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"#),
        "{answer}"
    );
    assert!(answer.contains("batches are not supported"), "{answer}");
    for nobody in [r#"[]"#, r#"[1,"2"]"#, r#"[{"method":"a"}]"#, r#"[["2.0",1,"a"]]"#] {
        assert!(matches!(read(&PLAIN, nobody), Incoming::Data), "{nobody}");
    }
    let odd = read(&PLAIN, r#"{"id":[1],"method":"m"}"#);
    assert!(matches!(odd, Incoming::Refused { .. }), "{odd:?}");
}

#[test]
fn a_request_is_withdrawn_as_the_protocol_says() {
    assert_eq!(PLAIN.withdraw(3, "m"), None);
    let lsp = text(LSP.withdraw(3, "m").expect("a record"));
    assert_eq!(lsp, r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":3}}"#);
    let mcp = text(MCP.withdraw(3, "m").expect("a record"));
    let wanted = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}"#;
    assert_eq!(mcp, wanted);
    assert_eq!(MCP.withdraw(3, "initialize"), None, "MCP forbids it");

    let incoming = r#"{"method":"$/cancelRequest","params":{"id":"a"}}"#;
    let Incoming::Cancel { id } = read(&LSP, incoming) else { panic!("{incoming}") };
    assert_eq!(id, WireId(r#""a""#.into()));
    let answer = text(LSP.answer_withdrawn(&id).expect("LSP wants an answer all the same"));
    assert!(answer.contains(r#""id":"a""#) && answer.contains("-32800"), "{answer}");
    let incoming = r#"{"method":"notifications/cancelled","params":{"requestId":9,"reason":"x"}}"#;
    assert!(matches!(read(&MCP, incoming), Incoming::Cancel { .. }));
    // Params by position have no id in them.
    let incoming = r#"{"method":"$/cancelRequest","params":["a"]}"#;
    assert!(matches!(read(&LSP, incoming), Incoming::Data));
    assert_eq!(MCP.answer_withdrawn(&id), None);
}

#[test]
fn no_params_are_no_params() {
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

    /// Fuzz: whatever comes, reading it neither panics nor invents an id.
    #[test]
    fn any_text_can_be_read(text in concat!(
        r#"[\{\[]("id"|"method"|"result"|"error"|"params"|[:,"\{\}\[\] 0-9a-z\-]"#,
        r#"|null|"requestId"){0,40}[\}\]]?"#
    )) {
        for dialect in [&PLAIN, &LSP, &MCP] {
            if let Incoming::Request { id, .. } | Incoming::Cancel { id } = read(dialect, &text) {
                prop_assert!(text.contains(&*id.0));
            }
        }
    }
}
