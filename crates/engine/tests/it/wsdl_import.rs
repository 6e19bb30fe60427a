//! WSDL descriptions as definitions: what schemas become, and what is said of the rest.

use std::collections::BTreeMap;

use integration_engine::adapter::Adapters;
use integration_engine::import::{FindingKind, ImportError, ImportOptions, Imported, wsdl};
use integration_engine::schema::Schema;
use integration_model::definition::{AuthType, Method};
use serde_json::{Value, json};

const HEAD: &str = concat!(
    r#"<definitions name="Shop" targetNamespace="urn:w" xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:w="urn:w" xmlns:t="urn:t" "#,
    r#"xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/" xmlns:xs="http://www.w3.org/2001/XMLSchema">"#
);

/// A description of one operation `Do` whose input is the element `t:In`.
fn description(schema: &str) -> String {
    format!(
        r#"{HEAD}<types><xs:schema targetNamespace="urn:t" elementFormDefault="qualified">{schema}
          <xs:element name="Out" type="xs:string"/></xs:schema></types>
        <message name="I"><part name="p" element="t:In"/></message><message name="O"><part name="p" element="t:Out"/></message>
        <portType name="P"><operation name="Do"><documentation>Does it</documentation><input message="w:I"/><output message="w:O"/></operation></portType>
        <binding name="B" type="w:P"><soap:binding style="document" transport="http://schemas.xmlsoap.org/soap/http"/>
          <operation name="Do"><soap:operation soapAction="urn:do"/><input><soap:body use="literal"/></input><output><soap:body use="literal"/></output></operation></binding>
        <service name="Shop Service"><port name="P" binding="w:B"><soap:address location="https://shop.example/soap"/></port></service></definitions>"#
    )
}

fn import(files: &[(&str, &str)]) -> Result<Imported, ImportError> {
    let files: BTreeMap<_, _> = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    wsdl::translate("main.wsdl", &files, &ImportOptions::default(), &Adapters::built_in(), &mut |_, _| {})
}

fn method_of(schema: &str) -> Method {
    let imported = import(&[("main.wsdl", &description(schema))]).expect("a definition");
    assert_eq!(imported.report.skipped_count, 0, "{:?}", imported.report);
    imported.definition.methods[0].clone()
}

#[track_caller]
fn assert_params(method: &Method, fit: &[Value], unfit: &[Value]) {
    let schema = Schema::compile(&method.param_schema).expect("a schema");
    for params in fit {
        assert_eq!(schema.validate(params), Ok(()), "{params} in {:#}", method.param_schema);
    }
    for params in unfit {
        assert!(schema.validate(params).is_err(), "{params} in {:#}", method.param_schema);
    }
}

#[test]
fn a_description_becomes_a_definition() {
    let imported = import(&[("main.wsdl", &description(r#"<xs:element name="In"/>"#))]).expect("a definition");
    let definition = &imported.definition;
    assert_eq!((definition.id.as_str(), definition.name.as_str()), ("shop-service", "Shop Service"));
    assert_eq!((definition.adapter_type.as_str(), definition.auth_type), ("soap", AuthType::None));
    assert_eq!(
        Value::Object(definition.default_config.clone()),
        json!({"baseUrl": "https://shop.example/soap", "soapVersion": "1.1"})
    );
    let method = &definition.methods[0];
    assert_eq!((method.name.as_str(), method.description.as_str()), ("Do", "Does it"));
    assert_eq!(method.operation["soapAction"], "urn:do");
    assert_eq!(method.operation["request"], json!({"name": "In", "namespace": "urn:t", "type": "xs:anyType"}));
    assert_eq!(method.result_schema, json!({"type": "string"}));
}

#[test]
fn sequences_choices_attributes_arrays_nil_and_facets_become_schemas() {
    let method = method_of(
        r#"<xs:element name="In"><xs:complexType><xs:sequence>
             <xs:element name="a" type="xs:int"/>
             <xs:element name="list" type="t:Code" minOccurs="0" maxOccurs="unbounded"/>
             <xs:element name="nil" type="xs:date" nillable="true"/>
             <xs:choice><xs:element name="x" type="xs:string"/><xs:element name="y" type="xs:boolean"/></xs:choice>
             <xs:element name="price" minOccurs="0"><xs:complexType><xs:simpleContent><xs:extension base="xs:decimal">
               <xs:attribute name="currency" use="required"/></xs:extension></xs:simpleContent></xs:complexType></xs:element>
           </xs:sequence><xs:attribute name="id" type="xs:unsignedByte" use="required"/></xs:complexType></xs:element>
           <xs:simpleType name="Code"><xs:restriction base="xs:string"><xs:pattern value="[A-Z]{2}"/><xs:enumeration value="AB"/><xs:enumeration value="CD"/></xs:restriction></xs:simpleType>"#,
    );
    let fits = json!({"@id": 7, "a": 1, "nil": null, "x": "t", "list": ["AB", "CD"], "price": {"@currency": "EUR", "#text": 1.5}});
    let mut unfit = Vec::new();
    for (pointer, value) in [
        ("/a", json!("1")),
        ("/a", json!(3_000_000_000_u32)),
        ("/@id", json!(256)),
        ("/list", json!("AB")),
        ("/list", json!(["EF"])),
        ("/nil", json!(7)),
        ("/price", json!(1.5)),
        ("/x", json!(null)),
        ("/y", json!(true)),
        ("/z", json!(1)),
    ] {
        let mut params = fits.clone();
        params[pointer.trim_start_matches('/')] = value;
        unfit.push(params);
    }
    assert_params(&method, &[fits, json!({"@id": 0, "a": 1, "nil": "2026-01-01", "y": true})], &unfit);
    let children = &method.operation["types"]["In"]["children"];
    assert_eq!(children[1], json!({"name": "list", "type": "xs:string", "optional": true, "many": true}));
    assert_eq!(children[2], json!({"name": "nil", "type": "xs:date", "nillable": true}));
}

#[test]
fn alternatives_of_a_choice_exclude_each_other() {
    let method = method_of(
        r#"<xs:element name="In"><xs:complexType><xs:choice>
             <xs:element name="card" type="xs:string"/>
             <xs:sequence><xs:element name="iban" type="xs:string"/><xs:element name="bic" type="xs:string" minOccurs="0"/></xs:sequence>
           </xs:choice></xs:complexType></xs:element>"#,
    );
    let fits = [json!({"card": "c"}), json!({"iban": "i"}), json!({"iban": "i", "bic": "b"})];
    assert_params(&method, &fits, &[json!({}), json!({"card": "c", "iban": "i"}), json!({"card": "c", "bic": "b"})]);
    // What stands in two alternatives tells neither.
    let method = method_of(
        r#"<xs:element name="In"><xs:complexType><xs:choice>
             <xs:sequence><xs:element name="a" type="xs:string"/><xs:element name="b" type="xs:string"/></xs:sequence>
             <xs:sequence><xs:element name="a" type="xs:string"/><xs:element name="c" type="xs:string"/></xs:sequence>
           </xs:choice></xs:complexType></xs:element>"#,
    );
    assert_params(&method, &[json!({"a": "1", "b": "2"}), json!({"a": "1", "c": "2"})], &[json!({"d": 1})]);
}

#[test]
fn lists_and_unions_of_simple_types_become_schemas() {
    let method = method_of(
        r#"<xs:element name="In"><xs:complexType><xs:sequence>
             <xs:element name="ints" type="t:Ints"/><xs:element name="some" type="t:Some" minOccurs="0"/>
             <xs:element name="either" minOccurs="0"><xs:simpleType><xs:union memberTypes="xs:int t:Code"/></xs:simpleType></xs:element>
           </xs:sequence><xs:attribute name="codes"><xs:simpleType><xs:list itemType="t:Code"/></xs:simpleType></xs:attribute></xs:complexType></xs:element>
           <xs:simpleType name="Ints"><xs:list><xs:simpleType><xs:restriction base="xs:int"><xs:maxInclusive value="9"/></xs:restriction></xs:simpleType></xs:list></xs:simpleType>
           <xs:simpleType name="Some"><xs:restriction base="t:Ints"><xs:maxLength value="2"/></xs:restriction></xs:simpleType>
           <xs:simpleType name="Code"><xs:restriction base="xs:token"><xs:enumeration value="AB"/></xs:restriction></xs:simpleType>"#,
    );
    let fits =
        [json!({"ints": [1, 2], "@codes": ["AB"], "either": 5}), json!({"ints": [], "some": [3], "either": "AB"})];
    assert_params(
        &method,
        &fits,
        &[json!({"ints": "1"}), json!({"ints": [10]}), json!({"ints": [1], "@codes": ["XY"]})],
    );
    let described = &method.operation["types"]["In"];
    assert_eq!(described["children"][0], json!({"name": "ints", "type": "xs:int list"}));
    assert_eq!(described["attributes"][0], json!({"name": "codes", "type": "xs:token list"}));
}

#[test]
fn extensions_substitutes_groups_and_recursion_are_followed() {
    let method = method_of(
        r#"<xs:element name="In" type="t:Node"/>
           <xs:complexType name="Node"><xs:sequence><xs:group ref="t:Names"/><xs:element name="child" type="t:Node" minOccurs="0"/>
             <xs:element ref="t:shape"/><xs:element name="who" type="t:Party"/></xs:sequence></xs:complexType>
           <xs:group name="Names"><xs:sequence maxOccurs="unbounded"><xs:element name="key" type="xs:string"/><xs:element name="value" type="xs:string"/></xs:sequence></xs:group>
           <xs:element name="shape" type="t:Shape" abstract="true"/>
           <xs:element name="circle" type="t:Shape" substitutionGroup="t:shape"/>
           <xs:complexType name="Shape"><xs:attribute name="r" type="xs:int"/></xs:complexType>
           <xs:complexType name="Party" abstract="true"><xs:sequence><xs:element name="name" type="xs:string"/></xs:sequence></xs:complexType>
           <xs:complexType name="Persön"><xs:complexContent><xs:extension base="t:Party"><xs:sequence><xs:element name="age" type="xs:int"/></xs:sequence></xs:extension></xs:complexContent></xs:complexType>"#,
    );
    let person = json!({"@xsi:type": "Persön", "name": "Ann", "age": 7});
    let leaf = json!({"key": ["k"], "value": ["v"], "circle": {"@r": 1}, "who": person});
    let mut tree = leaf.clone();
    tree["child"] = leaf.clone();
    let (mut wrong, mut untyped) = (tree.clone(), leaf.clone());
    wrong["child"]["who"]["age"] = "x".into();
    untyped["who"] = json!({"name": "Ann"});
    assert_params(&method, &[leaf, tree], &[wrong, untyped]);
    let node = &method.operation["types"]["Node"];
    assert_eq!(node["children"][0]["repeat"][1]["name"], "value");
    assert_eq!(method.operation["types"]["Party"]["derived"], json!(["Persön"]));
    assert_eq!(method.operation["types"]["Persön"]["children"][0]["name"], "name");
}

#[test]
fn files_import_and_include_others_and_take_their_namespaces() {
    let main = description(
        r#"<xs:include schemaLocation="parts/own.xsd"/><xs:import namespace="urn:o" schemaLocation="http://www.example.org/x/other.xsd"/>
           <xs:element name="In"><xs:complexType><xs:sequence xmlns:o="urn:o"><xs:element name="own" type="t:Own"/><xs:element ref="o:other"/></xs:sequence></xs:complexType></xs:element>"#,
    );
    let own = r#"<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" elementFormDefault="qualified"><xs:include schemaLocation="../more.xsd"/>
        <xs:complexType name="Own"><xs:sequence><xs:element name="a" type="More"/></xs:sequence></xs:complexType></xs:schema>"#;
    let more = r#"<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:simpleType name="More"><xs:restriction base="xs:int"><xs:maxInclusive value="9"/></xs:restriction></xs:simpleType></xs:schema>"#;
    let other = r#"<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="urn:o"><xs:element name="other" type="xs:boolean"/></xs:schema>"#;
    let files = [("main.wsdl", main.as_str()), ("parts/own.xsd", own), ("more.xsd", more), ("other.xsd", other)];
    assert_eq!(wsdl::references("main.wsdl", &main), ["other.xsd", "parts/own.xsd"]);
    let imported = import(&files).expect("a definition");
    let method = &imported.definition.methods[0];
    assert_params(method, &[json!({"own": {"a": 9}, "other": true})], &[json!({"own": {"a": 10}, "other": true})]);
    assert_eq!(
        method.operation["types"]["Own"]["namespace"], "urn:t",
        "what is included is in the includer's namespace"
    );
    let child = &method.operation["types"]["In"]["children"][1];
    assert_eq!((&child["name"], &child["namespace"]), (&json!("other"), &json!("urn:o")));

    let imported = import(&files[..1]).expect("a definition");
    let told: Vec<_> = imported.report.findings.iter().map(|finding| finding.message.as_str()).collect();
    assert!(told.iter().any(|message| message.contains("parts/own.xsd")), "{told:?}");
    assert!(told.iter().any(|message| message.contains("\"Own\" is not declared")), "{told:?}");
}

#[test]
fn rpc_headers_one_way_and_several_versions_are_bound() {
    let text = format!(
        r#"{HEAD}<types><xs:schema targetNamespace="urn:t"><xs:element name="Session" type="xs:string"/></xs:schema></types>
        <message name="I"><part name="a" type="xs:int"/><part name="s" element="t:Session"/></message>
        <portType name="P"><operation name="Do.it-now"><input message="w:I"/></operation></portType>
        <binding name="B12" type="w:P" xmlns:soap12="http://schemas.xmlsoap.org/wsdl/soap12/">
          <soap12:binding style="rpc" transport="http://schemas.xmlsoap.org/soap/http"/>
          <operation name="Do.it-now"><soap12:operation soapAction="urn:do"/><input>
            <soap12:header message="w:I" part="s" use="literal"/><soap12:body use="literal" namespace="urn:b" parts="a"/></input></operation></binding>
        <binding name="B" type="w:P"><soap:binding style="rpc" transport="http://schemas.xmlsoap.org/soap/http"/></binding>
        <service name="S"><port name="P12" binding="w:B12"/><port name="P" binding="w:B"/></service></definitions>"#
    );
    let imported = import(&[("main.wsdl", &text)]).expect("a definition");
    assert_eq!(imported.definition.default_config["soapVersion"], "1.2");
    let method = &imported.definition.methods[0];
    assert_eq!(method.name, "Do.it-now");
    assert_params(method, &[json!({"a": 1}), json!({"a": 1, "Session": "x"})], &[json!({}), json!({"a": 1, "s": "x"})]);
    let operation = &method.operation;
    assert_eq!((&operation["style"], &operation["oneWay"]), (&json!("rpc"), &json!(true)));
    assert_eq!(
        (&operation["request"]["name"], &operation["request"]["namespace"]),
        (&json!("Do.it-now"), &json!("urn:b"))
    );
}

#[test]
fn policies_say_which_credential_is_asked_for() {
    let policy = r#"<wsp:Policy xmlns:wsp="http://schemas.xmlsoap.org/ws/2004/09/policy" xmlns:sp="urn:sp"><sp:UsernameToken><wsp:Policy><sp:HashPassword/></wsp:Policy></sp:UsernameToken><sp:IncludeTimestamp/></wsp:Policy>"#;
    let text = description(r#"<xs:element name="In"/>"#).replace("<types>", &format!("{policy}<types>"));
    let definition = import(&[("main.wsdl", &text)]).expect("a definition").definition;
    assert_eq!(definition.auth_type, AuthType::Basic);
    let expected = json!({"usernameToken": {"password": "digest"}, "timestamp": {}});
    assert_eq!(definition.default_config["security"], expected);
}

#[test]
fn hostile_and_broken_descriptions_end_in_an_error_or_a_finding() {
    for (text, part) in [
        ("", "no root element"),
        ("{}", "no XML"),
        ("<definitions/>", "expected the element definitions"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>", "document types are not read"),
        (&format!("{HEAD}</definitions>"), "no SOAP binding"),
        (&description(""), "the element \"In\" is not declared"),
    ] {
        let error = import(&[("main.wsdl", text)]).expect_err(part);
        assert!(error.message.contains(part), "{part}: {error}");
    }
    // Groups that hold one another double what is looked at with each.
    let mut schema = r#"<xs:element name="In"><xs:complexType><xs:sequence><xs:group ref="t:g0"/></xs:sequence></xs:complexType></xs:element>"#.to_owned();
    for index in 0..38 {
        let next = format!("<xs:group ref=\"t:g{}\"/>", index + 1);
        schema.push_str(&format!("<xs:group name=\"g{index}\"><xs:sequence>{next}{next}</xs:sequence></xs:group>"));
    }
    schema
        .push_str(r#"<xs:group name="g38"><xs:sequence><xs:element name="a" type="xs:int"/></xs:sequence></xs:group>"#);
    let imported = import(&[("main.wsdl", &description(&schema))]).expect("a definition");
    assert!(
        imported.report.findings.iter().any(|finding| finding.kind == FindingKind::Simplified),
        "{:?}",
        imported.report
    );
    // Files outside of the folder, and files that include themselves.
    let schema = r#"<xs:include schemaLocation="../../etc/passwd"/><xs:include schemaLocation="self.xsd"/><xs:element name="In"/>"#;
    let own =
        r#"<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:include schemaLocation="self.xsd"/></xs:schema>"#;
    assert!(import(&[("main.wsdl", &description(schema)), ("self.xsd", own)]).is_ok());
    // A base that leads back to itself.
    let schema = r#"<xs:element name="In" type="t:A"/>
        <xs:complexType name="A"><xs:complexContent><xs:extension base="t:B"/></xs:complexContent></xs:complexType>
        <xs:complexType name="B"><xs:complexContent><xs:extension base="t:A"/></xs:complexContent></xs:complexType>
        <xs:simpleType name="C"><xs:restriction base="t:C"/></xs:simpleType>"#;
    assert!(import(&[("main.wsdl", &description(schema))]).is_ok());
}
