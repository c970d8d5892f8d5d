use topup_jobs::{Customer, TopupType};

use super::super::samples::{Sample, Shown, full};
use super::*;
use crate::notify::Security;

const ADDRESS: &str = "amina@client.example";

fn config() -> EmailConfig {
    EmailConfig {
        server: MailServer::new(("127.0.0.1", 25), Security::StartTls, None, None, "shop.example").unwrap(),
        from: "Boutique d'Été <topup@shop.example>".parse().unwrap(),
        card: CardForm::Code,
        operator: vec!["ops@shop.example".parse().unwrap(), "night@shop.example".parse().unwrap()],
        operator_locale: Locale::En,
    }
}

fn customers() -> Email {
    let settings = CustomerSettings { card: CardForm::Code, delayed: false };
    Email::customers(&config(), Templates::load(None).unwrap(), settings)
}

fn operator() -> Email {
    Email::operator(&config(), Templates::load(None).unwrap())
}

fn customer(email: &str) -> Customer {
    Customer { name: Some(Secret::new("Amina")), email: Some(Secret::new(email)), ..Customer::default() }
}

fn sample(outcome: Outcome, email: &str) -> Sample {
    let mut sample = full(outcome, Some(TopupType::Adsl), Shown::Code { proof: true });
    sample.event.data.customer = Some(customer(email));
    sample.order.customer = Some(customer(email));
    sample
}

fn written(email: &Email, sample: &Sample) -> (Envelope, String) {
    let (envelope, mail) = email.mail(sample.delivery()).unwrap();
    (envelope, String::from_utf8(mail).unwrap())
}

fn recipients(envelope: &Envelope) -> Vec<String> {
    envelope.to().iter().map(ToString::to_string).collect()
}

fn order(customer: Option<Customer>) -> Order {
    let topup_id = "6901616fe9e88196b4eb64b2".parse().unwrap();
    Order { customer, ..Order::new(topup_id, crate::clock::real_now()) }
}

#[test]
fn every_attempt_of_an_event_is_the_same_bytes() {
    let sample = sample(Outcome::Fulfilled, ADDRESS);
    let (_, first) = written(&customers(), &sample);
    let (_, second) = written(&customers(), &sample);
    assert_eq!(first, second);
    let (headers, _) = first.split_once("\r\n\r\n").unwrap();
    insta::assert_snapshot!(headers.replace('\r', ""));
}

#[test]
fn customer_mails_go_to_the_customer_and_operator_mails_to_the_operator() {
    for outcome in Outcome::ALL {
        let sample = sample(outcome, ADDRESS);
        if Audience::Customer.concerns(outcome) {
            let (envelope, mail) = written(&customers(), &sample);
            assert_eq!(recipients(&envelope), [ADDRESS]);
            assert!(!mail.contains("ops@shop.example"), "{mail}");
        }
        if Audience::Operator.concerns(outcome) {
            let (envelope, mail) = written(&operator(), &sample);
            assert_eq!(recipients(&envelope), ["ops@shop.example", "night@shop.example"]);
            assert!(!mail.contains(ADDRESS) && !mail.contains("Amina"), "{mail}");
            assert!(mail.contains("Content-Language: en"), "{mail}");
        }
    }
}

#[test]
fn a_channel_wants_only_what_concerns_its_reader() {
    let reachable = order(Some(customer(ADDRESS)));
    let wanted = |email: &Email, order: &Order| {
        Outcome::ALL.into_iter().filter(|outcome| email.wants(*outcome, order)).collect::<Vec<_>>()
    };
    assert_eq!(wanted(&customers(), &reachable), [Outcome::Fulfilled, Outcome::Scheduled, Outcome::Refunded]);
    let notified_of_delays = CustomerSettings { card: CardForm::Nothing, delayed: true };
    let notified_of_delays = Email::customers(&config(), Templates::load(None).unwrap(), notified_of_delays);
    assert!(notified_of_delays.wants(Outcome::Delayed, &reachable));
    for unreachable in [None, Some(customer(" ")), Some(Customer::default())] {
        let order = order(unreachable);
        assert_eq!(wanted(&customers(), &order), []);
        let operators = [Outcome::Delayed, Outcome::Unresolved, Outcome::Overdue, Outcome::Undelivered];
        assert_eq!(wanted(&operator(), &order), operators);
    }
    assert_eq!(operator().card_form(), CardForm::Nothing);
}

#[test]
fn values_of_an_order_cannot_inject_headers_or_recipients() {
    let mut hostile = sample(Outcome::Fulfilled, ADDRESS);
    let data = &mut hostile.event.data;
    data.customer.as_mut().unwrap().name = Some(Secret::new("Eve\r\nBcc: all@shop.example\r\n\r\nhello"));
    data.topup_ref = Some("x\nBcc: all@shop.example".to_owned());
    for (email, outcome) in [(customers(), Outcome::Fulfilled), (operator(), Outcome::Delayed)] {
        hostile.outcome = outcome;
        let (envelope, mail) = written(&email, &hostile);
        let (headers, _) = mail.split_once("\r\n\r\n").unwrap();
        assert!(!headers.lines().any(|line| line.starts_with("Bcc")), "{headers}");
        assert!(!recipients(&envelope).iter().any(|to| to.starts_with("all@")));
    }
    for bad in ["nobody", "a@b.dz\r\nBcc: c@d.dz", "a@b.dz, c@d.dz", "<a@b.dz>", "a@b.dz>\r\nDATA", ""] {
        let refused = customers().mail(sample(Outcome::Fulfilled, bad).delivery()).unwrap_err();
        assert_eq!(
            refused,
            SendError::Refused("the customer has no valid e-mail address".to_owned()),
            "{bad}"
        );
    }
}

#[test]
fn text_cannot_contain_the_boundary_of_the_parts() {
    let mut sample = sample(Outcome::Fulfilled, ADDRESS);
    let id = "evt_6901616fe9e88196b4eb64b2_fulfilled";
    sample.event.data.topup_ref = Some(format!("--=_{id}--"));
    let (_, mail) = written(&customers(), &sample);
    assert_eq!(mail.matches(&format!("--=_{id}--")).count(), 1, "{mail}");
    assert!(mail.trim_end().ends_with(&format!("--=_{id}--")), "{mail}");
}
