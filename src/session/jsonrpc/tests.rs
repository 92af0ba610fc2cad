//! The records of JSON-RPC, without an agent.

use proptest::prelude::*;

use super::fuzz::check_incoming;
use super::protocol::{Cancellation, JsonRpcProtocol};
use crate::record::Record;
use crate::session::protocol::{Incoming, Protocol, WireId};

const PLAIN: JsonRpcProtocol = JsonRpcProtocol::new(Cancellation::None);
const LSP: JsonRpcProtocol = JsonRpcProtocol::new(Cancellation::Lsp);
const MCP: JsonRpcProtocol = JsonRpcProtocol::new(Cancellation::Mcp);
const ACP: JsonRpcProtocol = JsonRpcProtocol::new(Cancellation::Acp);

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
        r#"{"jsonrpc":"2.0","id":null,"result":{}}"#,
        // A log line, which has other keys.
        r#"{"level":"info","id":1}"#,
        r#"{"level":"info","id":1,"error":null}"#,
        r#"{"type":"assistant"}"#,
        r#"{"method":7,"id":1}"#,
        r#"{"id":1,"id":2,"method":"m"}"#,
        "[]",
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
    assert_eq!((failure.message(), failure.code()), ("no", Some(5)));
    assert_eq!(failure.data(), Some(&b"[1]".to_vec().into()));
    let odd = read(&PLAIN, r#"{"id":"req_12","result":1}"#);
    assert!(matches!(odd, Incoming::Response { id: None, .. }), "{odd:?}");
}

#[test]
fn absent_result_is_null() {
    // Serializers that leave out what is null: each `shutdown` of a language server timed out.
    for answer in [
        r#"{"jsonrpc":"2.0","id":7}"#,
        r#"{"id":7}"#,
        r#"{"id":7,"error":null}"#,
        r#"{"jsonrpc":"2.0","id":"7","method":null,"error":null,"_meta":{}}"#,
        r#"{"id":7,"method":"","error":null}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"shutdown","result":null}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":null}"#,
    ] {
        let read = read(&PLAIN, answer);
        let Incoming::Response { id: Some(7), outcome: Ok(body) } = read else {
            panic!("{read:?}")
        };
        assert_eq!(body.as_bytes(), b"null", "{answer}");
    }
}

#[test]
fn error_of_any_shape_keeps_its_words() {
    // Servers send texts and objects without the keys. The reason was lost, and the caller got "the
    // error is not an error object".
    for (error, message, code) in [
        (r#""just text""#, "just text", None),
        (r#"{"code":-32000,"message":"no"}"#, "no", Some(-32000)),
        (r#"{"message":"no code"}"#, "no code", None),
        (r#"{"code":"ENOENT","message":"no file"}"#, "no file (code ENOENT)", None),
        (r#"{"code":404}"#, r#"{"code":404}"#, Some(404)),
        (r#"{"error":"nested","type":"x"}"#, r#"{"error":"nested","type":"x"}"#, None),
        (r#"{"message":{"text":"deep"}}"#, r#"{"text":"deep"}"#, None),
        ("[1,\"a\"]", "[1,\"a\"]", None),
        ("true", "true", None),
    ] {
        let answer = format!(r#"{{"jsonrpc":"2.0","id":1,"error":{error}}}"#);
        let read = read(&PLAIN, &answer);
        let Incoming::Response { id: Some(1), outcome: Err(found) } = read else {
            panic!("{read:?}")
        };
        assert_eq!((found.message(), found.code()), (message, code), "{error}");
        assert_eq!(found.to_json().as_deref(), Some(error), "the error as it came");
    }
    for answer in [r#"{"id":null,"error":"Parse error"}"#, r#"{"error":{"message":"Parse error"}}"#]
    {
        let read = read(&PLAIN, answer);
        let Incoming::Complaint(found) = read else { panic!("{read:?}") };
        assert_eq!(found.message(), "Parse error");
    }
}

#[test]
fn batch_is_read_one_by_one() {
    // A client of an older MCP may batch. The whole array was data, and what it answered timed out.
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"a"}, {"method":"b","params":[[1]]}]"#;
    let Incoming::Batch(records) = read(&PLAIN, batch) else { panic!("{batch}") };
    let texts: Vec<_> = records.iter().map(|record| record.as_str().expect("text")).collect();
    let wanted = [r#"{"jsonrpc":"2.0","id":1,"method":"a"}"#, r#"{"method":"b","params":[[1]]}"#];
    assert_eq!(texts, wanted);
    for data in [
        "[]",
        r#"[1,"2"]"#,
        r#"[{"a":1}]"#,
        r#"[["2.0",1,"a"]]"#,
        r#"[[{"id":1,"result":2}]]"#,
        r#"[{"id":1,"result":2},3]"#,
        r#"[{"id":1,"result":2},[{"id":2,"result":2}]]"#,
    ] {
        assert!(matches!(read(&PLAIN, data), Incoming::Data), "{data}");
    }
    let many = format!("[{}{{\"id\":1}}]", "{\"id\":1},".repeat(4096));
    let Incoming::Refused { response, .. } = read(&PLAIN, &many) else { panic!("no limit") };
    let response = text(response);
    let wanted = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"#;
    assert!(response.starts_with(wanted), "{response}");
    let odd = read(&PLAIN, r#"{"id":[1],"method":"m"}"#);
    assert!(matches!(odd, Incoming::Refused { .. }), "{odd:?}");
}

#[test]
fn progress_token_is_kept_or_added() {
    // A token that the caller has set must survive, and one that is added must stand where the
    // protocol looks for it. A second key of one name makes the object another one.
    let with = |protocol: &JsonRpcProtocol, body: &str| {
        let (body, token) = protocol.with_progress(5, body.as_bytes()).ok()?;
        Some((text(body), token.0.to_string()))
    };
    for (body, wanted, token) in [
        ("null", r#"{"_meta":{"progressToken":5}}"#, "5"),
        ("{}", r#"{"_meta":{"progressToken":5}}"#, "5"),
        (r#"{"a":"_meta"}"#, r#"{"_meta":{"progressToken":5},"a":"_meta"}"#, "5"),
        (r#"{"a":1,"_meta":{ }}"#, r#"{"a":1,"_meta":{"progressToken":5}}"#, "5"),
        (r#"{"_meta":{"b":2},"a":1}"#, r#"{"_meta":{"progressToken":5,"b":2},"a":1}"#, "5"),
        (r#"{"_meta":{"progressToken":"t"}}"#, r#"{"_meta":{"progressToken":"t"}}"#, "\"t\""),
        (r#"{"_meta":null,"a":1}"#, r#"{"_meta":{"progressToken":5},"a":1}"#, "5"),
        (r#"{"_meta":{"progressToken":null}}"#, r#"{"_meta":{"progressToken":5}}"#, "5"),
    ] {
        assert_eq!(with(&MCP, body), Some((wanted.into(), token.into())), "{body}");
    }
    let lsp = with(&LSP, r#"{"a":1}"#);
    assert_eq!(lsp, Some((r#"{"workDoneToken":5,"a":1}"#.into(), "5".into())));
    let own = r#"{"workDoneToken":"w"}"#;
    assert_eq!(with(&LSP, own), Some((own.into(), "\"w\"".into())));
    let other = r#"{"progressToken":1}"#;
    let wanted = r#"{"workDoneToken":5,"progressToken":1}"#;
    assert_eq!(with(&LSP, other), Some((wanted.into(), "5".into())), "the key of MCP");
    // An array with as many values as there are keys is not an object either.
    for none in [
        "[1]",
        r#"[{"a":1},2]"#,
        "3",
        r#"{"_meta":[]}"#,
        r#"{"_meta":["t"]}"#,
        r#"{"_meta":{"progressToken":[]}}"#,
    ] {
        assert_eq!(with(&MCP, none), None, "{none}");
    }
    assert_eq!((with(&PLAIN, "{}"), with(&ACP, "{}")), (None, None));
    for (protocol, report) in [
        (&MCP, r#"{"method":"notifications/progress","params":{"progressToken":5,"progress":1}}"#),
        (&LSP, r#"{"method":"$/progress","params":{"token":5,"value":{"kind":"end"}}}"#),
    ] {
        let Incoming::Progress { token } = read(protocol, report) else { panic!("{report}") };
        assert_eq!(&*token.0, "5");
        assert!(matches!(read(&PLAIN, report), Incoming::Data), "{report}");
    }
}

#[test]
fn ping_of_mcp_has_a_result() {
    // MCP obliges each side to answer it. A server that pinged its client ended the connection.
    assert_eq!(MCP.own_result("ping"), Some(&b"{}"[..]));
    assert_eq!((MCP.own_result("pong"), LSP.own_result("ping")), (None, None));
}

#[test]
fn cancellation_follows_the_protocol() {
    // LSP, MCP and ACP cancel with different records, and MCP forbids it for `initialize`.
    assert_eq!(PLAIN.cancellation(3, "m"), None);
    let lsp = text(LSP.cancellation(3, "m").expect("a record"));
    assert_eq!(lsp, r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":3}}"#);
    let mcp = text(MCP.cancellation(3, "m").expect("a record"));
    let wanted = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}"#;
    assert_eq!(mcp, wanted);
    assert_eq!(MCP.cancellation(3, "initialize"), None, "MCP forbids it");
    let acp = text(ACP.cancellation(3, "session/prompt").expect("a record"));
    assert_eq!(acp, r#"{"jsonrpc":"2.0","method":"$/cancel_request","params":{"requestId":3}}"#);

    let incoming = r#"{"method":"$/cancelRequest","params":{"id":"a"}}"#;
    let Incoming::Cancel { id } = read(&LSP, incoming) else { panic!("{incoming}") };
    assert_eq!(id, WireId(r#""a""#.into()));
    let answer = text(LSP.cancelled_response(&id).expect("LSP answers a cancelled request"));
    assert!(answer.contains(r#""id":"a""#) && answer.contains("-32800"), "{answer}");
    let incoming = r#"{"method":"notifications/cancelled","params":{"requestId":9,"reason":"x"}}"#;
    assert!(matches!(read(&MCP, incoming), Incoming::Cancel { .. }));
    let incoming = r#"{"method":"$/cancel_request","params":{"requestId":9,"_meta":{}}}"#;
    assert!(matches!(read(&ACP, incoming), Incoming::Cancel { .. }));
    let answer = text(ACP.cancelled_response(&id).expect("ACP answers a cancelled request"));
    assert!(answer.contains("-32800"), "{answer}");
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

    /// Two of three texts are near
    /// to a request or a cancellation, the third is made of their parts.
    #[test]
    fn any_text_can_be_classified(text in concat!(
        r#"\{"id": ?(-?[0-9]{1,3}(\.[0-9]0?)?(e[0-9])?|"[a-z0-9\\]{0,3}"|null),"method":"m"\}"#,
        r#"|\{"method":"(\$/cancelRequest|\$/cancel_request|notifications/cancelled)","#,
        r#""params":\{"(id|requestId)":(-?[0-9]{1,3}(\.[0-9]0?)?|"[a-z]{0,3}")\}\}"#,
        r#"|[\{\[]("id"|"method"|"result"|"error"|"params"|[:,"\{\}\[\] 0-9a-z\-]"#,
        r#"|null|"requestId"){0,40}[\}\]]?"#
    )) {
        for protocol in [&PLAIN, &LSP, &MCP, &ACP] {
            check_incoming(protocol, &Record::from(text.clone().into_bytes()), &text);
        }
    }
}
