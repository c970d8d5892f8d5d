use super::super::samples::{Shown, full};
use super::*;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

fn gateway(method: Method, kind: &'static str, body: &str) -> Result<SmsGateway, String> {
    let url = "https://sms.example/send?key=k".parse().unwrap();
    let (headers, kind) = (HeaderMap::new(), HeaderValue::from_static(kind));
    SmsGateway::new(url, method, headers, kind, Some("Boutique".to_owned()), body.to_owned())
        .map_err(|error| error.to_string())
}

fn request(gateway: &SmsGateway) -> Request {
    gateway.request(&sample(Phone::read(ODD_PHONE, Country::DZ), gateway.from.as_deref())).unwrap()
}

fn body(request: &Request) -> &[u8] {
    request.body().and_then(|body| body.as_bytes()).unwrap_or_default()
}

#[test]
fn a_json_body_carries_every_text_unaltered() {
    let template = r#"{"to":{{ phone | tojson }},"text":{{ text | tojson }},"sender":{{ from | tojson }},"id":"{{ event_id }}"}"#;
    let request = request(&gateway(Method::POST, JSON, template).unwrap());
    let sent: serde_json::Value = serde_json::from_slice(body(&request)).unwrap();
    assert_eq!(sent["to"], ODD_PHONE);
    assert_eq!(sent["text"], ODD_TEXT);
    assert_eq!(sent["sender"], "Boutique");
    assert_eq!(sent["id"], "evt_6901616fe9e88196b4eb64b2_fulfilled");
    assert_eq!(request.headers()[CONTENT_TYPE], JSON);
    assert_eq!(request.url().query(), Some("key=k"));
}

#[test]
fn with_get_the_body_becomes_the_query() {
    let template = "to={{ phone | urlencode }}&text={{ text | urlencode }}";
    let request = request(&gateway(Method::GET, JSON, template).unwrap());
    let pairs: Vec<_> = request.url().query_pairs().into_owned().collect();
    assert_eq!(pairs[0], ("key".to_owned(), "k".to_owned()));
    assert_eq!(pairs[1], ("to".to_owned(), ODD_PHONE.to_owned()));
    assert_eq!(pairs[2], ("text".to_owned(), ODD_TEXT.to_owned()));
    assert_eq!(body(&request), b"");
}

#[test]
fn a_template_that_breaks_on_some_text_is_rejected() {
    for (method, kind, template, words) in [
        (Method::POST, JSON, r#"{"text":"{{ text }}"}"#, "not JSON"),
        (Method::POST, JSON, r#"{"to":"{{ phone }}","text":{{ text | tojson }}}"#, "not JSON"),
        (Method::POST, "application/vnd.x+json; charset=utf-8", "{{ text }}", "not JSON"),
        (Method::POST, FORM, "to={{ phone }}&text={{ text | urlencode }}", "arrives altered; write {{"),
        (Method::POST, FORM, "to={{ phone | urlencode }}&text={{ text }}", "arrives altered; write {{"),
        (Method::GET, JSON, "to={{ phone | urlencode }}", "arrives altered; write {{"),
        (
            Method::POST,
            JSON,
            r#"{"to":[{{ phone | tojson }}],"text":{{ texte | tojson }}}"#,
            "line 1: undefined value",
        ),
        (Method::POST, JSON, r#"{"to":{{ phone | tojson }}}"#, "text is missing"),
        (Method::POST, JSON, "{\n\"text\":{{ text | tojsn }}}", "line 2: unknown filter"),
        (Method::POST, JSON, "{{ texte }}", "line 1: undefined value"),
        (Method::POST, JSON, "{{ text", "line 1: syntax error"),
    ] {
        let error = gateway(method, kind, template).unwrap_err();
        assert!(error.contains(words), "{template}: {error}");
    }
    assert!(
        gateway(Method::PUT, "text/plain", "{{ phone }} {{ text }}").is_ok(),
        "an unknown content type is not checked"
    );
}

#[test]
fn a_content_type_header_overrides_the_setting() {
    let url = "https://sms.example/".parse().unwrap();
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/xml"))]);
    let kind = HeaderValue::from_static("text/plain");
    let gateway = SmsGateway::new(url, Method::POST, headers, kind, None, "{{ text }}".to_owned()).unwrap();
    assert_eq!(request(&gateway).headers()[CONTENT_TYPE], "text/xml");

    let (url, headers) =
        (gateway.url.clone(), HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(FORM))]));
    let body = "[{{ phone | tojson }},{{ text | tojson }}]".to_owned();
    let kind = HeaderValue::from_static(JSON);
    let refused = SmsGateway::new(url, Method::POST, headers, kind, None, body).unwrap_err();
    assert!(refused.to_string().contains("urlencode"), "the body is checked as a form: {refused}");
}

#[tokio::test]
async fn a_refused_connection_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let kind = HeaderValue::from_static("text/plain");
    let gateway = SmsGateway::new(url, Method::POST, HeaderMap::new(), kind, None, "{{ text }}".to_owned());
    let settings = CustomerSettings { card: CardForm::Nothing, delayed: false };
    let sms = Sms::new(gateway.unwrap(), Templates::load(None).unwrap(), settings).unwrap();
    let mut sample = full(Outcome::Refunded, None, Shown::Nothing);
    sample.event.data.customer.as_mut().unwrap().phone = Some(topup_jobs::Secret::new("0661223344"));
    sample.order.customer = sample.event.data.customer.clone();
    let sent = sms.send(sample.delivery()).await;
    assert_eq!(sent, Err(SendError::Unavailable("the connection was refused".to_owned())));
}

#[test]
fn debug_shows_neither_url_nor_headers() {
    let shown = format!("{:?}", gateway(Method::POST, "text/plain", "{{ text }}").unwrap());
    assert_eq!(shown, "SmsGateway { method: POST, .. }");
}

#[test]
fn a_template_can_use_the_number_in_every_format() {
    let sent = |body: &str, phone: &str| {
        let gateway = gateway(Method::POST, FORM, body).unwrap();
        let request = gateway.request(&sample(Phone::read(phone, Country::DZ), None));
        request.map(|request| {
            let pairs = form_urlencoded::parse(super::tests::body(&request));
            pairs.into_owned().next().unwrap().1
        })
    };
    for (form, arrives) in [
        ("phone_e164 | urlencode", "+213661223344"),
        ("phone_digits", "213661223344"),
        ("phone_national", "0661223344"),
        ("phone | replace(' ', '') | urlencode", "0661223344"),
    ] {
        let body = format!("to={{{{ {form} }}}}&text={{{{ text | urlencode }}}}");
        assert_eq!(sent(&body, "0661 22 33 44").unwrap(), arrives, "{form}");
    }
    for form in ["phone_digits", "phone_digits | urlencode", "phone_e164 | tojson", "phone_national | upper"]
    {
        let body = format!("to={{{{ {form} }}}}&text={{{{ text | urlencode }}}}");
        for phone in ["none", "0661223344 / 0550112233"] {
            assert!(
                matches!(sent(&body, phone), Err(SendError::Refused(_))),
                "{form}: an invalid number is refused for good"
            );
        }
    }
    let body = "to={{ phone_e164 | default(phone) | urlencode }}&text={{ text | urlencode }}";
    assert_eq!(sent(body, "none").unwrap(), "none");
    // Refused, because without `urlencode` a phone sent by a producer could add parameters to the request.
    let careless =
        gateway(Method::POST, FORM, "to={{ phone | replace('+', '00') }}&text={{ text | urlencode }}");
    assert!(careless.unwrap_err().contains("phone is missing or arrives altered"));
}
