use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};

use super::super::decode::Decoding;
use super::*;

fn encode(encoding: Encoding, json: &str) -> Result<EncodedBody, String> {
    encoding.encode(&Bytes::copy_from_slice(json.as_bytes()), FormArrays::Repeat)
}

fn text_of(encoding: Encoding, json: &str) -> String {
    let body = encode(encoding, json).expect("an encoded body");
    String::from_utf8(body.bytes.to_vec()).expect("UTF-8")
}

async fn decode(content_type: &'static str, body: &[u8]) -> Result<Value, String> {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
    let data = Decoding::Auto.decode(&headers, Bytes::copy_from_slice(body), false).await?;
    data.value().cloned().map_err(|error| error.to_string())
}

#[test]
fn json_passes_untouched() {
    let text = r#"{ "n": 12345678901234567890.10 }"#;
    assert_eq!(text_of(Encoding::Json, text), text);
}

#[test]
fn forms_repeat_lists_and_nest_objects() {
    let text = r#"{"a": "x y&z", "list": [1, 2.50, null], "o": {"k": {"d": true}}, "none": null}"#;
    assert_eq!(text_of(Encoding::Form, text), "a=x+y%26z&list=1&list=2.50&o%5Bk%5D%5Bd%5D=true");
    assert!(encode(Encoding::Form, "[1]").is_err());
}

#[test]
fn forms_name_the_items_of_lists_as_the_system_wants_it() {
    let text = Bytes::from_static(br#"{"a": [1, null, {"b": ["x"]}]}"#);
    for (arrays, expected) in [
        (FormArrays::Repeat, "a=1&a[b]=x"),
        (FormArrays::Brackets, "a[]=1&a[][b][]=x"),
        (FormArrays::Indices, "a[0]=1&a[2][b][0]=x"),
    ] {
        let body = Encoding::Form.encode(&text, arrays).expect("a form");
        let text = String::from_utf8(body.bytes.to_vec()).expect("UTF-8");
        assert_eq!(text.replace("%5B", "[").replace("%5D", "]"), expected);
    }
}

#[test]
fn multipart_writes_texts_files_and_json() {
    let text = r#"{"name": "rex", "tags": ["a", "b"], "meta": {"k": 1.0},
        "photo": {"content": "aGVsbG8=", "filename": "a\"\r\n.png", "contentType": "image/png"}}"#;
    let body = encode(Encoding::Multipart, text).expect("an encoded body");
    let boundary = body.content_type.strip_prefix("multipart/form-data; boundary=").expect("a boundary").to_owned();
    let text = String::from_utf8(body.bytes.to_vec()).expect("UTF-8");
    let part = |head: &str, content: &str| {
        format!("--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
    };
    let expected = [
        part("name=\"name\"", "rex"),
        part("name=\"tags\"", "a"),
        part("name=\"tags\"", "b"),
        part("name=\"meta\"\r\nContent-Type: application/json", r#"{"k": 1.0}"#),
        part("name=\"photo\"; filename=\"a%22%0D%0A.png\"\r\nContent-Type: image/png", "hello"),
        format!("--{boundary}--\r\n"),
    ];
    assert_eq!(text, expected.concat());
}

#[test]
fn a_part_s_content_type_cannot_add_headers() {
    let text = r#"{"f": {"text": "x", "contentType": "a/b\r\nX-Evil: 1"}}"#;
    assert!(encode(Encoding::Multipart, text).is_err());
    assert!(encode(Encoding::Multipart, r#"{"f": {"content": "%%%"}}"#).is_err());
}

#[test]
fn xml_is_written_as_it_is_read() {
    let text = r##"{"order":{"@id":"7","item":[{"@n":1,"#text":"a<b"},"c&d"],"note":null,"price":1.10}}"##;
    let expected = concat!(
        r#"<?xml version="1.0" encoding="UTF-8"?><order id="7"><item n="1">a&lt;b</item>"#,
        "<item>c&amp;d</item><note/><price>1.10</price></order>"
    );
    assert_eq!(text_of(Encoding::Xml, text), expected);
}

#[test]
fn what_xml_cannot_carry_is_refused() {
    for text in [
        r#"{"a": 1, "b": 2}"#,
        r#"{"a": [1, 2]}"#,
        r#""x""#,
        r#"{"a b": 1}"#,
        r#"{"a><evil/": 1}"#,
        r#"{"a": {"@x y": 1}}"#,
        r#"{"a": {"@x": [1]}}"#,
        r#"{"a": "\u0000"}"#,
        r#"{"1a": 1}"#,
    ] {
        assert!(encode(Encoding::Xml, text).is_err(), "{text}");
    }
    let deep = format!("{}1{}", r#"{"a":"#.repeat(100), "}".repeat(100));
    assert!(encode(Encoding::Xml, &deep).is_err());
    assert!(encode(Encoding::Form, &deep).is_err());
}

#[test]
fn csv_is_written_from_objects_and_text() {
    let text = r#"[{"b": 1, "a": "x,\"y\""}, {"a": null, "c": [1]}]"#;
    assert_eq!(text_of(Encoding::Csv, text), "b,a,c\n1,\"x,\"\"y\"\"\",\n,,[1]\n");
    assert_eq!(text_of(Encoding::Csv, r#""a,b\n1,2""#), "a,b\n1,2");
    assert!(encode(Encoding::Csv, "[1]").is_err());
}

#[test]
fn text_and_binary_take_scalars() {
    assert_eq!(text_of(Encoding::Text, "1.10"), "1.10");
    assert_eq!(text_of(Encoding::Text, r#""a\nb""#), "a\nb");
    assert!(encode(Encoding::Text, "{}").is_err());
    for text in [r#""aGk/""#, r#""aGk_""#, r#""aGk/Pw==""#, r#""aGk_Pw""#] {
        assert!(text_of(Encoding::Binary, text).starts_with("hi?"), "{text}");
    }
    assert!(encode(Encoding::Binary, r#""not base64!""#).is_err());
    assert!(encode(Encoding::Binary, "1").is_err());
}

#[tokio::test]
async fn bodies_are_read_by_their_content_type() {
    for (content_type, body, expected) in [
        ("application/json; charset=utf-8", "{\"a\":1}", json!({"a": 1})),
        ("application/hal+json", "\u{feff}[1]", json!([1])),
        ("application/problem+JSON", "null", json!(null)),
        ("text/csv", "a,b\n1,\"2\n3\"\n", json!([{"a": "1", "b": "2\n3"}])),
        ("application/x-www-form-urlencoded", "a=1&b=x+y&a=2", json!({"a": ["1", "2"], "b": "x y"})),
        ("text/html", "<p>", json!("<p>")),
        ("text/plain; charset=\"ISO-8859-1\"", "plain", json!("plain")),
        ("image/png", "hi", json!("aGk=")),
        ("", "{\"a\":1}", json!({"a": 1})),
        ("", "hello", json!("hello")),
        ("application/json", "", json!(null)),
    ] {
        assert_eq!(decode(content_type, body.as_bytes()).await.as_ref(), Ok(&expected), "{content_type}: {body}");
    }
    assert_eq!(decode("text/plain; charset=iso-8859-1", b"\xe4").await, Ok(json!("ä")));
    assert_eq!(decode("", b"\xff\xfe").await, Ok(json!("//4=")));
}

#[tokio::test]
async fn xml_is_read_into_objects() {
    let text = "<?xml version=\"1.0\"?><!-- c --><o:r xmlns:o=\"urn:x\" id=\"7&amp;8\">\n  <i>1</i><i/><i k=\"v\">a &lt; &#98;</i>\n  <c><![CDATA[<x>]]></c></o:r>";
    let expected = json!({"o:r": {"@xmlns:o": "urn:x", "@id": "7&8", "i": ["1", null, {"@k": "v", "#text": "a < b"}], "c": "<x>"}});
    assert_eq!(decode("application/xml", text.as_bytes()).await, Ok(expected));
}

#[tokio::test]
async fn hostile_bodies_are_refused() {
    let deep = format!("{}{}", "<a>".repeat(1000), "</a>".repeat(1000));
    let attributes: String = (0..1000).map(|n| format!(" a{n}=\"\"")).collect();
    let attributes = format!("<a{attributes}/>");
    let many = format!("<r>{}</r>", "<a/>".repeat(300_000));
    for (content_type, body) in [
        ("application/xml", "<a><b></a>".as_bytes()),
        ("application/xml", b"<a"),
        ("application/xml", b""),
        ("application/xml", b"<a/><b/>"),
        ("application/xml", b"text"),
        ("application/xml", b"<a>&undeclared;</a>"),
        ("application/xml", b"<a>&#0;</a>"),
        ("application/xml", b"<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>"),
        ("application/xml", b"<a x=\"1\" x=\"2\"/>"),
        ("application/xml", b"<a>\xff</a>"),
        ("application/xml", deep.as_bytes()),
        ("application/xml", attributes.as_bytes()),
        ("application/xml", many.as_bytes()),
        ("text/csv", b"a,b\n1\n"),
        ("text/csv", b"a\n\xff\n"),
        ("text/plain", b"\xff"),
        ("application/json", b"<html></html>"),
        ("application/json", b"{\"a\""),
        ("application/json", b"{\"a\":\"\xff\"}"),
        ("application/json", b"{} {}"),
    ] {
        let result = decode(content_type, body).await;
        if body.is_empty() {
            assert_eq!(result, Ok(Value::Null));
        } else {
            assert!(
                result.is_err(),
                "{content_type}: {} gives {result:?}",
                String::from_utf8_lossy(&body[..body.len().min(60)])
            );
        }
    }
}

#[tokio::test]
async fn deeply_nested_json_is_read_without_recursion() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let data = Decoding::Auto.decode(&headers, Bytes::from(deep), false).await.expect("it is JSON");
    assert!(data.value().is_err(), "building it is refused");
}
