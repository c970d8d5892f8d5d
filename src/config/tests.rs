use clap::Parser;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    run: RunSettings,
}

const GOOD: [&str; 4] = ["--encryption-key", KEY, "--oneclickdz-api-key", "k"];
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OLD_KEY: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";
const SMS_BODY: &str = "[{{ phone | tojson }},{{ text | tojson }}]";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn validate(more: &[&str]) -> Result<Config, SettingsError> {
    let args = ["topup-worker"].iter().chain(&GOOD).chain(more);
    Command::try_parse_from(args).unwrap().run.validate()
}

#[test]
fn only_the_encryption_key_and_the_api_key_are_required() {
    let config = validate(&[]).unwrap();
    assert_eq!(config.names.to_string(), "{topup}");
    assert_eq!(config.concurrency, 64);
    assert!(config.webhook.is_none());
}

#[test]
fn an_error_starts_with_the_name_of_the_unusable_setting() {
    for (args, name) in [
        (&["--redis-url", "nonsense"][..], "REDIS_URL"),
        (&["--redis-url", "redis+sentinel://:token-of-mine@a"], "REDIS_URL"),
        (&["--redis-ca-file", "Cargo.toml"], "REDIS_CA_FILE"),
        (&["--redis-url", "rediss://a", "--redis-ca-file", "/nowhere/ca.pem"], "REDIS_CA_FILE"),
        (&["--redis-url", "rediss://a", "--redis-ca-file", "Cargo.toml"], "REDIS_CA_FILE"),
        (&["--database-url", "mysql://x"], "DATABASE_URL"),
        (&["--database-url", "sqlite::memory:"], "DATABASE_URL"),
        (&["--database-url", "postgres://user:token-of-mine@host:port/orders"], "DATABASE_URL"),
        (&["--encryption-keys-previous", "token-of-mine"], "ENCRYPTION_KEYS_PREVIOUS"),
        (&["--retention-days", "0"], "RETENTION_DAYS"),
        (&["--retention-days", "36501"], "RETENTION_DAYS"),
        (&["--concurrency", "0"], "CONCURRENCY"),
        (&["--time-scale", "0"], "TIME_SCALE"),
        (&["--time-scale", "3600"], "TIME_SCALE"),
        (&["--oneclickdz-api-url", "ftp://x"], "ONECLICKDZ_API_URL"),
        (&["--oneclickdz-api-url", "http://10.0.0.7:8080"], "ONECLICKDZ_API_URL"),
        (&["--oneclickdz-api-url", "http://localhost.example"], "ONECLICKDZ_API_URL"),
        (
            &["--oneclickdz-api-url", "http://api.oneclickdz.com", "--allow-insecure-api"],
            "ONECLICKDZ_API_URL",
        ),
        (&["--oneclickdz-max-in-flight", "4"], "ONECLICKDZ_MAX_IN_FLIGHT"),
        (&["--webhook-url", "http://example.dz", "--webhook-secret", SECRET], "WEBHOOK_URL"),
        (&["--webhook-url", "https://example.dz"], "WEBHOOK_SECRET"),
        (&["--webhook-url", "token-of-mine"], "WEBHOOK_URL"),
        (&["--webhook-url", "https://example.dz", "--webhook-secret", ""], "WEBHOOK_SECRET"),
        (&["--webhook-url", "https://example.dz", "--webhook-secret", "secret"], "WEBHOOK_SECRET"),
        (&["--operator-webhook-url", "https://example.dz"], "OPERATOR_WEBHOOK_SECRET"),
        (&["--webhook-url", "https://10.0.0.1/token-of-mine", "--webhook-secret", SECRET], "WEBHOOK_URL"),
        (&["--webhook-url", "https://u:token-of-mine@example.dz", "--webhook-secret", SECRET], "WEBHOOK_URL"),
        (
            &[
                "--webhook-url",
                "http://169.254.169.254/",
                "--webhook-secret",
                SECRET,
                "--allow-insecure-webhooks",
                "--webhook-allowed-networks",
                "0.0.0.0/0",
            ],
            "WEBHOOK_URL",
        ),
        (&["--webhook-allowed-networks", "10.0.0.0/8 intranet"], "WEBHOOK_ALLOWED_NETWORKS"),
        (
            &[
                "--webhook-url",
                "https://10.0.0.1/",
                "--webhook-secret",
                SECRET,
                "--webhook-allowed-networks",
                "10/8",
            ],
            "WEBHOOK_ALLOWED_NETWORKS",
        ),
        (&["--callback-allowed-hosts", "https://example.dz"], "CALLBACK_ALLOWED_HOSTS"),
        (&["--callback-allowed-hosts", "example.dz"], "WEBHOOK_SECRET"),
        (&["--smtp-url", "smtps://u:token-of-mine@example.dz"], "EMAIL_FROM"),
        (&["--smtp-url", "smtps://token-of-mine@example.dz", "--email-from", "a@b.dz"], "SMTP_URL"),
        (&["--smtp-url", "token-of-mine", "--email-from", "a@b.dz"], "SMTP_URL"),
        (&["--smtp-url", "smtp://a.dz/?x=token-of-mine", "--email-from", "a@b.dz"], "SMTP_URL"),
        (&["--smtp-url", "smtp://a.dz", "--email-from", "shop"], "EMAIL_FROM"),
        (&["--smtp-url", "smtp://a.dz", "--email-from", "a@b.dz", "--smtp-ca-file", "/no"], "SMTP_CA_FILE"),
        (&["--smtp-url", "smtp://a.dz", "--email-from", "a@b.dz", "--operator-email", "x"], "OPERATOR_EMAIL"),
        (&["--operator-email", "ops@example.dz"], "SMTP_URL"),
        (&["--sms-url", "https://token-of-mine.dz"], "SMS_BODY"),
        (&["--sms-url", "https://token-of-mine.dz", "--sms-body", "{{ text }}"], "SMS_BODY"),
        (&["--sms-url", "http://token-of-mine.dz", "--sms-body", SMS_BODY], "SMS_URL"),
        (
            &["--sms-url", "https://a.dz", "--sms-body", SMS_BODY, "--sms-headers", "token-of-mine"],
            "SMS_HEADERS",
        ),
        (
            &["--sms-url", "https://a.dz", "--sms-body", SMS_BODY, "--sms-content-type", "a\nb"],
            "SMS_CONTENT_TYPE",
        ),
        (&["--reveal-url", "https://token-of-mine@a.dz"], "REVEAL_URL"),
        (&["--reveal-url", "https://:token-of-mine@a.dz"], "REVEAL_URL"),
        (&["--templates-dir", "/nowhere"], "TEMPLATES_DIR"),
        (&["--templates-dir", "src/config"], "TEMPLATES_DIR"),
    ] {
        let error = validate(args).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with(name), "{args:?}: {error}");
        assert!(!error.contains("token-of-mine"), "{error}");
        let args = ["topup-worker"].iter().chain(&GOOD).chain(args);
        let faults = Command::try_parse_from(args).unwrap().run.faults();
        assert_eq!(faults.iter().map(ToString::to_string).collect::<Vec<_>>(), [error]);
    }
}

#[test]
fn a_missing_encryption_key_is_refused_with_advice() {
    let run = Command::try_parse_from(["topup-worker", "--oneclickdz-api-key", "k"]).unwrap().run;
    let error = run.validate().err().unwrap().to_string();
    assert!(error.starts_with("ENCRYPTION_KEY is not set") && error.contains("keygen"), "{error}");
}

#[test]
fn databases_of_both_kinds_and_several_previous_keys_are_accepted() {
    for url in
        ["sqlite:///data/orders.db", "postgres://topup:secret@db/orders", "postgresql://db:5433/orders"]
    {
        assert_eq!(validate(&["--database-url", url]).unwrap().database_url.expose_secret(), url);
    }
    let keys = format!("{} {},{OLD_KEY}", "0".repeat(64), "1".repeat(64));
    let config = validate(&["--encryption-keys-previous", &keys, "--retention-days", "90"]).unwrap();
    let old = CardCipher::new(&OLD_KEY.into()).unwrap();
    let card = topup_jobs::Secret::new("123456789012");
    assert_eq!(config.cipher.decrypt(&old.encrypt(&card)), Ok(card));
    assert_eq!(config.keep, Some(Duration::from_hours(90 * 24)));
}

#[test]
fn all_faults_are_reported_at_once() {
    let args = ["topup-worker", "--encryption-key", "short", "--concurrency", "0", "--redis-url", "x"];
    let faults = Command::try_parse_from(args).unwrap().run.faults();
    let words = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(faults.len(), 4);
    let refused = Command::try_parse_from(args).unwrap().run.validate().err().unwrap().to_string();
    assert!(refused.starts_with("4 settings cannot be used: "), "{refused}");
    for name in ["ENCRYPTION_KEY", "CONCURRENCY", "REDIS_URL", "ONECLICKDZ_API_KEY"] {
        assert!(words.contains(name) && refused.contains(name), "{words}\n{refused}");
    }
}

#[test]
fn the_address_of_the_api_may_end_in_its_version() {
    for (written, meant) in [
        ("https://api.oneclickdz.com", "https://api.oneclickdz.com/"),
        ("https://api.oneclickdz.com/v3", "https://api.oneclickdz.com/"),
        ("https://api.oneclickdz.com/v3/", "https://api.oneclickdz.com/"),
        ("http://127.0.0.1:8080/proxy/v3", "http://127.0.0.1:8080/proxy"),
        ("http://127.0.0.1:8080/v33", "http://127.0.0.1:8080/v33"),
    ] {
        assert_eq!(validate(&["--oneclickdz-api-url", written]).unwrap().api_url.as_str(), meant);
    }
}

#[test]
fn a_scaled_clock_is_accepted_with_a_simulator() {
    let config =
        validate(&["--time-scale", "3600", "--oneclickdz-api-url", "http://127.0.0.1:8080"]).unwrap();
    assert!((config.time_scale - 3600.0).abs() < f64::EPSILON);
}

#[test]
fn http_to_the_api_needs_a_loopback_address_or_the_setting_that_allows_it() {
    for here in ["http://127.0.0.1:8080", "http://127.8.0.1", "http://[::1]:8080", "http://localhost:8080"] {
        assert!(validate(&["--oneclickdz-api-url", here]).is_ok(), "{here}");
    }
    let simulator = ["--oneclickdz-api-url", "http://simulator:8080"];
    let error = validate(&simulator).err().unwrap().to_string();
    assert!(error.contains("ALLOW_INSECURE_API=true"), "{error}");
    assert!(validate(&[&simulator[..], &["--allow-insecure-api"]].concat()).is_ok());
}

#[test]
fn an_easily_guessed_encryption_key_is_refused_with_advice() {
    for key in ["0".repeat(64), "5a".repeat(32), "0123456789abcdef".repeat(4)] {
        let args = ["topup-worker", "--oneclickdz-api-key", "k", "--encryption-key", &key];
        let error = Command::try_parse_from(args).unwrap().run.validate().err().unwrap().to_string();
        assert!(error.starts_with("ENCRYPTION_KEY is easily guessed") && error.contains("rekey"), "{error}");
        assert!(!error.contains(&key), "{error}");
    }
}

#[test]
fn an_insecure_endpoint_must_be_allowed() {
    let endpoint =
        ["--webhook-url", "http://127.0.0.1:1/", "--webhook-secret", SECRET, "--allow-insecure-webhooks"];
    assert!(validate(&endpoint).unwrap().webhook.is_some());
}

#[test]
fn a_private_endpoint_is_allowed_by_naming_its_network() {
    let inside = ["--webhook-url", "https://10.20.1.1:8443/", "--webhook-secret", SECRET];
    assert!(validate(&inside).is_err());
    let named = [&inside[..], &["--webhook-allowed-networks", "10.20.0.0/16"]].concat();
    assert!(validate(&named).unwrap().webhook.is_some());
}

#[test]
fn callbacks_are_off_until_a_host_is_named() {
    assert!(validate(&["--webhook-secret", SECRET]).unwrap().callbacks.is_none());
    assert!(validate(&["--callback-allowed-hosts", " "]).unwrap().callbacks.is_none());
    let named = ["--callback-allowed-hosts", "*.example.dz", "--webhook-secret", SECRET];
    assert!(validate(&named).unwrap().callbacks.is_some());
}

#[test]
fn gateway_headers_are_one_a_line_with_any_value() {
    let headers = "Authorization: Basic a;b=c\n\n X-Api-Key:k \n";
    let args = ["--sms-url", "https://a.dz", "--sms-body", SMS_BODY, "--sms-headers", headers];
    assert!(validate(&args).unwrap().sms.is_some());
    let body = "{{ text }}";
    let args = ["--sms-url", "https://a.dz", "--sms-body", body, "--sms-content-type", " "];
    assert!(validate(&args).is_err_and(|error| error.to_string().contains("JSON")), "an empty type is unset");
    let args = ["--sms-url", "http://127.0.0.1:1", "--sms-body", SMS_BODY, "--allow-insecure-sms"];
    assert!(validate(&args).unwrap().sms.is_some());
}

#[test]
fn debug_shows_no_secret() {
    let args = [
        "topup-worker",
        "--encryption-key",
        KEY,
        "--oneclickdz-api-key",
        "key-value",
        "--encryption-keys-previous",
        "previous-key",
        "--database-url",
        "postgres://topup:database-password@db/orders",
        "--webhook-secret",
        SECRET,
        "--redis-url",
        "redis://user:redis-password@localhost",
        "--webhook-url",
        "https://example.dz/url-token",
        "--smtp-url",
        "smtps://user:smtp-password@example.dz",
        "--operator-email",
        "operator@example.dz",
        "--sms-url",
        "https://example.dz/sms-token",
        "--sms-headers",
        "Authorization: Bearer header-token",
        "--sms-body",
        "body-token",
    ];
    let shown = format!("{:?}", Command::try_parse_from(args).unwrap().run);
    let others = ["smtp-password", "operator@example.dz", "sms-token", "header-token", "body-token"];
    let more = ["previous-key", "database-password"];
    let all = [KEY, "key-value", SECRET, "redis-password", "url-token"].into_iter().chain(others).chain(more);
    for secret in all {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// Reads name and default of each setting from the table of a documentation page.
fn documented(page: &str) -> Vec<(String, String)> {
    let table = page.split("<!-- settings -->").nth(1).unwrap().split("<!-- /settings -->").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let cell = |row: &str, n: usize| row.split('|').nth(n).unwrap_or_default().trim().replace('`', "");
    rows.map(|row| (cell(row, 1), cell(row, 2))).collect()
}

#[test]
fn the_docs_name_every_setting_and_its_default() {
    use clap::{Args, CommandFactory};

    let command = LogSettings::augment_args(Command::command());
    let mut settings: Vec<(String, String)> = command
        .get_arguments()
        .filter_map(|arg| {
            let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy());
            let default: Vec<_> = defaults.collect();
            let default =
                if default.is_empty() || default == ["false"] { "–".to_owned() } else { default.join(" ") };
            Some((arg.get_env()?.to_string_lossy().into_owned(), default))
        })
        .collect();
    settings.sort();
    for page in [include_str!("../../docs/settings.md"), include_str!("../../docs/settings.fr.md")] {
        let mut documented = documented(page);
        documented.sort();
        assert_eq!(documented, settings);
    }
}
