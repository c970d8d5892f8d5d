use std::fmt::Write as _;

use topup_jobs::{Customer, Outcome, Secret, TopupType};

use super::super::samples::{Sample, Shown, full};
use super::*;

const INJECTION: &str = "Eve \"<img src=x onerror=alert(1)>\" & 'co'\r\nBcc: all@shop.example";

fn built_in() -> Templates {
    Templates::load(None).unwrap()
}

/// Every combination of reader, outcome and language that has a text.
fn every_text() -> impl Iterator<Item = (Audience, Outcome, Locale)> {
    let readers = [Audience::Customer, Audience::Operator].into_iter();
    let outcomes = readers.flat_map(|reader| {
        Outcome::ALL.into_iter().filter(move |outcome| reader.concerns(*outcome)).map(move |it| (reader, it))
    });
    outcomes.flat_map(|(reader, outcome)| LOCALES.map(|locale| (reader, outcome, locale)))
}

/// The visible text of an HTML page, letters and digits only.
fn seen(html: &str) -> String {
    let body = &html[html.find("<body").unwrap()..];
    let mut text = String::new();
    let mut in_tag = false;
    for c in body.chars() {
        match c {
            '<' => in_tag = true,
            '>' => in_tag = false,
            c if !in_tag => text.push(c),
            _ => {}
        }
    }
    letters(&text.replace("&#x27;", "'").replace("&#x2f;", "/").replace("&amp;", "&"))
}

fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).collect()
}

/// Number of SMS segments. A single one holds 160 characters of GSM 03.38 or 70 of UCS-2, one of several 153 or 67.
fn segments(text: &str) -> usize {
    const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
    let (length, alone, each) = if text.chars().all(|c| BASIC.contains(c)) {
        (text.chars().count(), 160, 153)
    } else {
        (text.encode_utf16().count(), 70, 67)
    };
    if length <= alone { 1 } else { length.div_ceil(each) }
}

#[test]
fn the_texts_of_every_outcome_in_every_language() {
    let templates = built_in();
    let kinds = [Some(TopupType::Adsl), Some(TopupType::FourG), None];
    for (reader, outcome, locale) in every_text() {
        let mut shown = String::new();
        for kind in &kinds {
            let forms: &[Shown] = match outcome {
                Outcome::Fulfilled => &[Shown::Code { proof: true }, Shown::Link, Shown::Nothing],
                _ => &[Shown::Nothing],
            };
            for &form in forms {
                let sample = full(outcome, kind.clone(), form);
                let context = TemplateContext::new(sample.delivery(), locale);
                let MailText { subject, text, .. } = templates.mail(reader, locale, &context).unwrap();
                let type_name = kind.clone().map_or("no type".to_owned(), String::from);
                writeln!(shown, "=== {type_name}, {form:?}\n{subject}\n---\n{text}").unwrap();
                if reader == Audience::Customer {
                    writeln!(shown, "--- SMS\n{}", templates.sms(locale, &context).unwrap()).unwrap();
                }
            }
        }
        let file = name(
            reader,
            locale,
            &TemplateContext::new(full(outcome, None, Shown::Nothing).delivery(), locale),
            "txt",
        );
        insta::assert_snapshot!(file.replace(['/', '.'], "-"), shown);
    }
}

#[test]
fn the_html_of_a_card_in_every_language() {
    for locale in LOCALES {
        let sample = full(Outcome::Fulfilled, Some(TopupType::Adsl), Shown::Code { proof: true });
        let context = TemplateContext::new(sample.delivery(), locale);
        let mail = built_in().mail(Audience::Customer, locale, &context).unwrap();
        insta::assert_snapshot!(
            name(Audience::Customer, locale, &context, "html").replace(['/', '.'], "-"),
            mail.html
        );
    }
}

#[test]
fn text_and_html_of_a_mail_have_the_same_content() {
    let templates = built_in();
    for (reader, outcome, locale) in every_text() {
        for kind in [Some(TopupType::Adsl), Some(TopupType::FourG), None] {
            for form in [Shown::Code { proof: true }, Shown::Nothing] {
                let sample = full(outcome, kind.clone(), form);
                let context = TemplateContext::new(sample.delivery(), locale);
                let MailText { subject, text, html } = templates.mail(reader, locale, &context).unwrap();
                assert_eq!(
                    seen(&html),
                    letters(&subject) + &letters(&text),
                    "{reader:?} {outcome} {locale:?}"
                );
            }
        }
    }
}

#[test]
fn the_html_loads_nothing_and_has_the_direction_of_its_language() {
    let templates = built_in();
    for (reader, outcome, locale) in every_text() {
        let sample = full(outcome, Some(TopupType::FourG), Shown::Nothing);
        let html =
            templates.mail(reader, locale, &TemplateContext::new(sample.delivery(), locale)).unwrap().html;
        for foreign in ["http", "src=", "url(", "<script", "<style", "<link", "@import"] {
            assert!(!html.contains(foreign), "{foreign} in {html}");
        }
        let expected = match locale {
            Locale::Fr => r#"lang="fr" dir="ltr""#,
            Locale::Ar => r#"lang="ar" dir="rtl""#,
            Locale::En => r#"lang="en" dir="ltr""#,
        };
        // Language and direction are set on <html>, and on the outer table for mail programs that drop <html>.
        assert_eq!(html.matches(expected).count(), 2, "{html}");
        assert!(html.contains(r#"<bdi dir="ltr">213472731602</bdi>"#), "{html}");
    }
}

/// A sample with an HTML and header injection in every value that a merchant or customer controls.
fn hostile(outcome: Outcome) -> Sample {
    let mut sample = full(outcome, Some(TopupType::Other(INJECTION.to_owned())), Shown::Code { proof: true });
    let data = &mut sample.event.data;
    let hostile = || Some(Secret::new(INJECTION));
    data.customer = Some(Customer { name: hostile(), ..Customer::default() });
    (data.number, data.card_code) = (hostile(), hostile());
    (data.topup_ref, data.num_trans) = (Some(INJECTION.to_owned()), Some(INJECTION.to_owned()));
    data.date_traitement = Some(INJECTION.to_owned());
    sample
}

#[test]
fn values_of_an_order_are_escaped_in_html() {
    let templates = built_in();
    for (reader, outcome, locale) in every_text() {
        let sample = hostile(outcome);
        let context = TemplateContext::new(sample.delivery(), locale);
        let mail = templates.mail(reader, locale, &context).unwrap();
        assert!(!mail.html.contains("<img") && !mail.html.contains("'co'"), "{}", mail.html);
        assert!(mail.html.contains("&lt;img src=x onerror=alert(1)&gt;"), "{}", mail.html);
        assert!(!mail.subject.contains(['\r', '\n']), "{}", mail.subject);
        assert!(mail.text.contains("<img src=x"), "a plain text escapes nothing: {}", mail.text);
    }
}

#[test]
fn an_sms_with_a_card_fits_into_one_segment_and_any_other_into_two() {
    let templates = built_in();
    let kinds = [Some(TopupType::Adsl), Some(TopupType::FourG), None];
    for (_, outcome, locale) in every_text().filter(|(reader, ..)| *reader == Audience::Customer) {
        for kind in &kinds {
            for form in [Shown::Code { proof: true }, Shown::Link, Shown::Nothing] {
                let mut sample = full(outcome, kind.clone(), form);
                sample.event.data.topup_amount = Some(10_000);
                let text = templates.sms(locale, &TemplateContext::new(sample.delivery(), locale)).unwrap();
                let has_code = outcome == Outcome::Fulfilled && sample.event.data.card_code.is_some();
                let most = if locale == Locale::Ar && !has_code { 2 } else { 1 };
                assert!(segments(&text) <= most, "{} segments: {text}", segments(&text));
            }
        }
    }
}

#[test]
fn segments_are_counted_by_gsm_and_ucs2_lengths() {
    assert_eq!(segments(&"a".repeat(160)), 1);
    assert_eq!(segments(&"a".repeat(161)), 2);
    assert_eq!(segments(&"ê".repeat(70)), 1);
    assert_eq!(segments(&"ع".repeat(135)), 3);
}

/// Loads a folder that contains only this file.
fn load(file: &str, text: &str) -> Result<Templates, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    Templates::load(Some(folder.path())).map_err(|error| error.to_string())
}

#[test]
fn a_merchants_template_replaces_the_built_in_one() {
    let text = "Carte {{ reference or topup_id }}\n\nVoici : {{ card_code or '' }} {{ metadata.cart | default('') }}\n";
    let templates = load("fr/fulfilled.txt", text).unwrap();
    assert_eq!(templates.replaced(), 1);
    let sample = full(Outcome::Fulfilled, Some(TopupType::Adsl), Shown::Code { proof: false });
    let context = TemplateContext::new(sample.delivery(), Locale::Fr);
    let mail = templates.mail(Audience::Customer, Locale::Fr, &context).unwrap();
    assert_eq!((&*mail.subject, &*mail.text), ("Carte order-123456", "Voici : 123456789012 42"));
    assert!(mail.html.contains("Votre recharge"), "the others stay");
}

#[test]
fn an_unusable_template_is_reported_with_file_line_and_advice() {
    for (file, text, words) in [
        ("fr/fulfilled.txt", "Sujet\n\n{{ card_cod }}\n", "fr/fulfilled.txt, line 3: undefined value"),
        ("ar/scheduled.html", "<p>\n{% if %}", "ar/scheduled.html, line 2: syntax error"),
        (
            "en/operator-overdue.html",
            "{{ nobody.knows }}",
            "en/operator-overdue.html, line 1: undefined value",
        ),
        ("fr/details.html", "\n{{ amount + 1 }}", "fr/details.html, line 2: "),
        ("en/delayed.sms", "{{ amount | euros }}", "en/delayed.sms, line 1: unknown filter"),
        ("en/delayed.sms", " \n", "en/delayed.sms, line 1: it is empty"),
        ("fr/refunded.txt", "Pas de sujet", "fr/refunded.txt, line 1: it must be the subject"),
        ("layout.html", "{% block title %}{% endblock %}{{ logo }}", "layout.html, line 1: undefined value"),
    ] {
        let error = load(file, text).unwrap_err();
        assert!(error.starts_with(words), "{error}");
        assert!(error.contains("remove the file"), "{error}");
    }
    // Loading also detects a variable that only some sample orders have.
    let error = load("en/refunded.txt", "Refund\n\n{{ metadata.cart }}\n").unwrap_err();
    assert!(error.starts_with("en/refunded.txt, line 3: undefined value"), "{error}");
}

#[test]
fn an_unknown_template_name_is_reported() {
    for file in ["fr/fulfiled.txt", "fulfilled.txt", "de/fulfilled.txt", "fr/operator-overdue.sms"] {
        let error = load(file, "x").unwrap_err();
        assert!(error.starts_with(&format!("{file} matches no template name")), "{error}");
    }
    assert_eq!(load(".fulfilled.txt.swp", "x").unwrap().replaced(), 0);
    let error = Templates::load(Some(Path::new("/nowhere"))).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere cannot be read"), "{error}");
}

#[test]
fn an_error_on_an_order_quotes_nothing_of_the_order() {
    // This template fails only on an order whose reference is `secret`, so loading accepts it.
    let text = "{{ reference.nothing.more if reference == 'secret' else 'S' }}\n\nText\n";
    let templates = load("fr/refunded.txt", text).unwrap();
    let mut sample = full(Outcome::Refunded, None, Shown::Nothing);
    sample.event.data.topup_ref = Some("secret".to_owned());
    let context = TemplateContext::new(sample.delivery(), Locale::Fr);
    let error = templates.mail(Audience::Customer, Locale::Fr, &context).unwrap_err();
    assert_eq!(error.to_string(), "fr/refunded.txt, line 1 cannot be rendered");
}
