//! Chat templates.

use proptest::prelude::*;

use super::cases;
use crate::model::{ChatTemplate, SMOLVLM_TEMPLATE};

/// Expressions, from small to huge.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "x",
        "y",
        "messages",
        "messages[0]",
        "messages[0]['content']",
        "add_generation_prompt",
        "1",
        "-1",
        "0",
        "1000000000",
        "9223372036854775807",
        "1e308",
        "'x'",
        "''",
        "[]",
        "{}",
        "none",
        "true",
        "missing",
        "missing.more",
        "range(1000000000)",
        "range(100000)",
        "namespace(a=1)",
    ])
    .prop_map(String::from);
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operators = vec!["~", "+", "*", "-", "/", "//", "%", "**", "and", "in", "==", "<"];
        let filters = vec![
            "length",
            "upper",
            "capitalize",
            "trim",
            "list",
            "join",
            "tojson",
            "reverse",
            "sort",
            "first",
            "string",
            "replace('x', 'xxxxxxxxxxxxxxxx')",
            "indent(1000000000)",
            "batch(1000000000)",
            "slice(1000000000)",
            "int",
            "map('upper')",
            "unique",
            "items",
            "title",
            "center(1000000000)",
            "format(1)",
            "abs",
            "round(1000000)",
        ];
        let methods =
            vec!["split('')", "strip()", "replace('x', y)", "join(messages)", "items()", "startswith(y)"];
        prop_oneof![
            (inner.clone(), prop::sample::select(operators), inner.clone())
                .prop_map(|(a, operator, b)| format!("({a} {operator} {b})")),
            (inner.clone(), prop::sample::select(filters)).prop_map(|(a, filter)| format!("({a})|{filter}")),
            (inner.clone(), prop::sample::select(methods)).prop_map(|(a, method)| format!("({a}).{method}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})[{b}]")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("({a})[{b}:]")),
        ]
    })
}

fn template() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        expression().prop_map(|e| format!("{{{{ {e} }}}}")),
        expression().prop_map(|e| format!("{{% set x = {e} %}}")),
        Just("{% set x = x ~ x %}".to_owned()),
        Just("{% include 'chat' %}".to_owned()),
        Just("{{ f(x) }}".to_owned()),
        "[ -~]{0,12}".prop_map(|text| text),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let body = prop::collection::vec(inner, 1..4).prop_map(|parts| parts.concat());
        prop_oneof![
            (expression(), body.clone()).prop_map(|(e, b)| format!("{{% for x in {e} %}}{b}{{% endfor %}}")),
            (expression(), body.clone()).prop_map(|(e, b)| format!("{{% if {e} %}}{b}{{% endif %}}")),
            body.clone().prop_map(|b| format!("{{% macro f(y) %}}{b}{{% endmacro %}}{{{{ f(1) }}}}")),
            body.clone().prop_map(|b| format!("{{% set y %}}{b}{{% endset %}}")),
            body,
        ]
    })
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn any_template_renders_or_is_an_error(source in template()) {
        if let Ok(template) = ChatTemplate::new(&source) {
            let _ = template.prompt("How many {{ x }}?", 3);
        }
    }
}

#[test]
fn templates_that_would_never_end_or_fill_the_memory_run_out_of_fuel() {
    let doubling = "{% set x = x ~ x %}".repeat(60);
    for bomb in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% set x = 'x' * 100000000 %}",
        "{{ 'x' * 90000000 }}",
        &format!("{{% set x = 'xxxxxxxx' %}}{doubling}"),
        "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set x = 'x' * 9000000 %}{{ x|replace('x', x) }}",
        "{% set x = 'x' * 9000000 %}{{ x.replace('x', x) }}",
        "{% set x = 'x' * 9000000 %}{{ x.join(messages * 1000000) }}",
        "{{ 'x'|indent(1000000000, true) }}",
    ] {
        let error = ChatTemplate::new(bomb).expect_err(bomb).to_string();
        assert!(error.contains("out of fuel"), "{bomb}: {error}");
    }
}

#[test]
fn templates_that_go_too_deep_or_too_far_are_refused() {
    let nested = format!("{}{}", "{% if true %}".repeat(5000), "{% endif %}".repeat(5000));
    let brackets = format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000));
    for bomb in [
        "{% for i in range(1000000000) %}{% endfor %}",
        "{{ 'x' * 1000000000 }}",
        "{% include 'chat' %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}",
        &nested,
        &brackets,
        &" ".repeat(100_000),
    ] {
        assert!(ChatTemplate::new(bomb).is_err(), "{}", &bomb[..bomb.len().min(80)]);
    }
}

/// What the parser reads without counting how deep it goes.
#[test]
fn chains_as_long_as_a_template_may_be_do_not_overflow_the_stack() {
    let chain = |link: &str| format!("{{{{ 1{} }}}}", link.repeat(60_000 / link.len()));
    for source in [
        format!("{{{{ {}1 }}}}", "-".repeat(60_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(15_000)),
        chain("+1"),
        format!("{{{{ 1{} }}}}", "~x".repeat(5_000)),
        chain("|int"),
        chain(".x"),
        chain("()"),
        chain("[0]"),
        chain(" if 1 else 1"),
        format!("{{% if 0 %}}{}{{% endif %}}", "{%elif 0%}".repeat(6_000)),
        "{% set n = namespace(x=1) %}{% for i in range(90000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}"
            .into(),
        "{% set n = namespace(x=1) %}{% for i in range(20000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}"
            .into(),
    ] {
        // Some of them are good templates.
        let _ = ChatTemplate::new(&source);
    }
}

#[test]
fn a_template_whose_library_does_not_come_back_is_given_up() {
    let bomb = "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x|length }}";
    let error = ChatTemplate::new(bomb).expect_err("refused").to_string();
    assert!(error.contains("takes longer than 5s") || error.contains("out of fuel"), "{error}");
}

#[test]
fn a_long_question_still_has_fuel() {
    let template = ChatTemplate::new(SMOLVLM_TEMPLATE).expect("parses");
    let question = "why? ".repeat(200_000);
    assert!(template.prompt(&question, 8).expect("renders").contains(&question));
}
