//! Templates of e-mails and SMS. A merchant can replace each of the built-in ones.
//!
//! A template's name is `<locale>/<outcome>.<form>`. Values are escaped in `.html`, and not in `.txt` and `.sms`. If
//! the merchant has replaced a template, loading renders all templates with sample orders, so that a misspelt variable
//! stops the start of the worker and not a customer's mail. An error on a real order names only template and line,
//! because the engine's own text could quote the order.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use topup_jobs::Locale;

use super::formats::one_line;
use super::template_context::TemplateContext;
use super::{Audience, samples};

macro_rules! shared {
    ($name:literal) => {
        ($name, include_str!(concat!("templates/", $name)))
    };
}

macro_rules! texts {
    ($locale:literal) => {
        texts!($locale:
            "details.html", "details.txt",
            "fulfilled.html", "fulfilled.sms", "fulfilled.txt",
            "scheduled.html", "scheduled.sms", "scheduled.txt",
            "refunded.html", "refunded.sms", "refunded.txt",
            "delayed.html", "delayed.sms", "delayed.txt",
            "operator-delayed.html", "operator-delayed.txt",
            "operator-unresolved.html", "operator-unresolved.txt",
            "operator-overdue.html", "operator-overdue.txt",
            "operator-undelivered.html", "operator-undelivered.txt"
        )
    };
    ($locale:literal: $($name:literal),+) => {
        &[$((concat!($locale, "/", $name), include_str!(concat!("templates/", $locale, "/", $name)))),+]
    };
}

/// The built-in templates: name and source.
static BUILT_IN: [&[(&str, &str)]; 4] =
    [&[shared!("layout.html"), shared!("parts.html")], texts!("fr"), texts!("ar"), texts!("en")];

const LOCALES: [Locale; 3] = [Locale::Fr, Locale::Ar, Locale::En];

/// All templates of this deployment.
#[derive(Clone)]
pub struct Templates {
    environment: Arc<Environment<'static>>,
    replaced: usize,
}

/// Why a merchant's template cannot be used, with file and line, for its author.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The folder or a file in it cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// No built-in template has this name, so the file would have no effect.
    #[error(
        "{file} matches no template name; remove it, or give it the name of the built-in template it replaces"
    )]
    UnknownName {
        /// Path of the file, relative to the folder.
        file: String,
    },
    /// The template cannot be parsed, or cannot be rendered with a sample order.
    #[error("{file}, line {line}: {why}; correct it, or remove the file to use the built-in one")]
    Broken {
        /// Name of the template.
        file: String,
        /// Line number, from 1.
        line: usize,
        /// The cause, in the words of the template engine.
        why: String,
    },
}

/// A template failed on an order. The text contains nothing of the order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line} cannot be rendered")]
pub(super) struct RenderError {
    file: String,
    line: usize,
}

/// The rendered parts of an e-mail; the subject is one line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MailText {
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: String,
}

impl Templates {
    /// Loads the built-in templates; a file in `folder` replaces the template of the same name.
    ///
    /// # Errors
    /// The first [`TemplateError`] found.
    pub fn load(folder: Option<&Path>) -> Result<Self, TemplateError> {
        let mut sources: BTreeMap<String, String> = BUILT_IN
            .iter()
            .copied()
            .flatten()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect();
        let mut own = BTreeMap::new();
        if let Some(folder) = folder {
            read(folder, "", &mut own)?;
        }
        let replaced = own.len();
        for (file, text) in own {
            match sources.get_mut(&file) {
                Some(source) => *source = text,
                None => return Err(TemplateError::UnknownName { file }),
            }
        }
        let mut environment = environment();
        for (name, source) in sources {
            let added = environment.add_template_owned(name.clone(), source);
            added.map_err(|error| Fault::of(&error, &name))?;
        }
        let templates = Self { environment: Arc::new(environment), replaced };
        if replaced > 0 {
            templates.try_all()?;
        }
        Ok(templates)
    }

    /// Number of templates that the merchant replaced.
    #[must_use]
    pub fn replaced(&self) -> usize {
        self.replaced
    }

    pub(super) fn mail(
        &self,
        reader: Audience,
        locale: Locale,
        context: &TemplateContext<'_>,
    ) -> Result<MailText, RenderError> {
        Ok(self.try_mail(reader, locale, context)?)
    }

    /// Renders an SMS on one line with plain spaces, because a narrow space is not in the 7-bit alphabet of SMS.
    pub(super) fn sms(&self, locale: Locale, context: &TemplateContext<'_>) -> Result<String, RenderError> {
        Ok(self.try_sms(locale, context)?)
    }

    fn try_mail(
        &self,
        reader: Audience,
        locale: Locale,
        context: &TemplateContext<'_>,
    ) -> Result<MailText, Fault> {
        let file = name(reader, locale, context, "txt");
        let text = self.render(&file, context)?;
        let html = self.render(&name(reader, locale, context, "html"), context)?;
        let (subject, body) = text.split_once('\n').unwrap_or((&text, ""));
        let (subject, body) = (one_line(subject), body.strip_prefix('\n').unwrap_or_default());
        if subject.is_empty() || body.trim().is_empty() {
            let why = "it must be the subject, an empty line, and the text".to_owned();
            return Err(Fault { file, line: 1, why });
        }
        Ok(MailText { subject, text: body.to_owned(), html })
    }

    fn try_sms(&self, locale: Locale, context: &TemplateContext<'_>) -> Result<String, Fault> {
        let file = name(Audience::Customer, locale, context, "sms");
        let text = one_line(&self.render(&file, context)?);
        if text.is_empty() {
            return Err(Fault { file, line: 1, why: "it is empty".to_owned() });
        }
        Ok(text)
    }

    fn render(&self, file: &str, context: &TemplateContext<'_>) -> Result<String, Fault> {
        let rendered =
            self.environment.get_template(file).and_then(|template| template.render(Serde(context)));
        rendered.map_err(|error| Fault::of(&error, file))
    }

    /// Renders every template with every sample order it applies to.
    fn try_all(&self) -> Result<(), Fault> {
        for sample in samples::all() {
            for locale in LOCALES {
                let context = TemplateContext::new(sample.delivery(), locale);
                for reader in [Audience::Customer, Audience::Operator] {
                    if reader.concerns(sample.outcome) {
                        self.try_mail(reader, locale, &context)?;
                    }
                }
                if Audience::Customer.concerns(sample.outcome) {
                    self.try_sms(locale, &context)?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Templates").field("replaced", &self.replaced).finish_non_exhaustive()
    }
}

/// Where and why a template failed. `why` may quote values of an order, so [`RenderError`] leaves it out.
struct Fault {
    file: String,
    line: usize,
    why: String,
}

impl Fault {
    /// Locates the error in this template, or in a template that it includes.
    fn of(error: &minijinja::Error, file: &str) -> Self {
        let mut at = error;
        while let Some(cause) = std::error::Error::source(at).and_then(|cause| cause.downcast_ref()) {
            at = cause;
        }
        let why = match at.detail() {
            Some(detail) => format!("{}: {detail}", at.kind()),
            None => at.kind().to_string(),
        };
        let file = at.name().unwrap_or(file).to_owned();
        Self { file, line: at.line().unwrap_or(1), why }
    }
}

impl From<Fault> for TemplateError {
    fn from(Fault { file, line, why }: Fault) -> Self {
        Self::Broken { file, line, why }
    }
}

impl From<Fault> for RenderError {
    fn from(Fault { file, line, .. }: Fault) -> Self {
        Self { file, line }
    }
}

fn name(reader: Audience, locale: Locale, context: &TemplateContext<'_>, form: &str) -> String {
    let locale = match locale {
        Locale::Fr => "fr",
        Locale::Ar => "ar",
        Locale::En => "en",
    };
    let prefix = if reader == Audience::Operator { "operator-" } else { "" };
    format!("{locale}/{prefix}{}.{form}", context.outcome())
}

/// Sets up the template engine: unknown variables are errors, and a tag on a line of its own leaves no empty line.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_debug(true); // makes errors name the variable
    environment.set_auto_escape_callback(|name| match name.rsplit_once('.') {
        Some((_, "html")) => AutoEscape::Html,
        _ => AutoEscape::None,
    });
    // Invariant: the builder fails only for invalid delimiters, and these are the default ones.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().expect("a syntax");
    environment.set_syntax(syntax);
    environment
}

/// Reads a folder and its subfolders. Names with a leading dot are skipped: editors and mounted volumes create them.
fn read(folder: &Path, prefix: &str, found: &mut BTreeMap<String, String>) -> Result<(), TemplateError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| TemplateError::Unreadable { path, source }
    };
    for entry in std::fs::read_dir(folder).map_err(unreadable(folder))? {
        let path = entry.map_err(unreadable(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            read(&path, &format!("{name}/"), found)?;
        } else {
            let text = std::fs::read_to_string(&path).map_err(unreadable(&path))?;
            found.insert(name, text);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "templates_tests.rs"]
mod tests;
