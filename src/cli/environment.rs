//! Parses the command line and environment variables, also those written by `.env` files, compose files and Kubernetes.
//! An empty variable counts as not set. Spaces, line ends and one pair of quotes around a value are removed; `yes`,
//! `on` and `1` mean `true`. All unusable variables are reported at once, without their values.
//!
//! The file of `--env-file` holds one `NAME=value` per line, as Docker reads it: a line that begins with `#` is a
//! comment. In a value `$` is not expanded and `#` starts no comment, because a password may contain either.

use std::env::VarError;
use std::error::Error as _;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command};

/// The variables of the environment and of the file of `--env-file`. The environment wins, unless its value is empty.
#[derive(Debug, Default)]
pub(super) struct Variables {
    /// The lines of the file in their sequence. If two lines set the same variable, the later line counts.
    file: Vec<InFile>,
}

#[derive(Debug, PartialEq, Eq)]
struct InFile {
    line: usize,
    name: String,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    InEnvironment,
    InFile,
}

impl Variables {
    fn read(file: Option<&PathBuf>) -> Result<Self, Refused> {
        let Some(file) = file else { return Ok(Self::default()) };
        let file = read_file(file)
            .map_err(|why| Refused::Variables(vec![format!("--env-file {why}")], None, Vec::new()))?;
        Ok(Self { file })
    }

    /// Returns the value of a variable and where it is set; `None` if it is empty or not set.
    pub(super) fn get(&self, name: &str) -> Option<(String, Stands)> {
        let is_set = |value: &String| !value.trim().is_empty();
        let in_environment =
            std::env::var(name).ok().filter(is_set).map(|value| (value, Stands::InEnvironment));
        let in_file = || self.file.iter().rev().find(|found| found.name == name);
        in_environment.or_else(|| {
            Some((in_file().map(|found| &found.value).filter(|value| is_set(value))?.clone(), Stands::InFile))
        })
    }

    /// Returns a warning for each line of the file that is probably a mistake. A warning does not repeat an unknown
    /// name, because the line may be the rest of a wrapped secret.
    pub(super) fn oddities(&self, command: &Command) -> Vec<String> {
        fn knows(command: &Command, name: &str) -> bool {
            command.get_arguments().any(|arg| arg.get_env().is_some_and(|env| env == name))
                || command.get_subcommands().any(|command| knows(command, name))
        }
        let mut oddities = Vec::new();
        for (n, InFile { line, name, value }) in self.file.iter().enumerate() {
            if !knows(command, name) {
                oddities.push(format!("line {line} of --env-file has no effect: its name is not a setting"));
                continue;
            }
            if self.file[n + 1..].iter().any(|later| later.name == *name) {
                oddities
                    .push(format!("line {line} of --env-file has no effect: a later line sets {name}, too"));
            }
            if unquoted(value) == value && (value.contains(" #") || value.contains("\t#")) {
                let why = "what follows the # is part of the value, not a comment";
                oddities.push(format!("line {line} of --env-file sets {name} to a value with a #: {why}"));
            }
        }
        oddities
    }
}

fn read_file(path: &Path) -> Result<Vec<InFile>, String> {
    let text = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let text = String::from_utf8(text).map_err(|_| "cannot be read: it is not UTF-8".to_owned())?;
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    lines
        .map(|(n, text)| {
            let line = n + 1;
            let (name, value) =
                variable(text).ok_or(format!("cannot be used: line {line} is not NAME=value"))?;
            Ok(InFile { line, name, value })
        })
        .collect()
}

fn variable(line: &str) -> Option<(String, String)> {
    let (name, value) = line.trim().split_once('=')?;
    let name = name.strip_prefix("export ").unwrap_or(name).trim();
    let is_name =
        !name.is_empty() && name.bytes().all(|at| at.is_ascii_alphanumeric() || b"_.-".contains(&at));
    is_name.then(|| (name.to_owned(), value.trim().to_owned()))
}

/// Parses the arguments, the environment and the file of `--env-file`. Returns [`Refused`] if any of them is unusable.
pub(super) fn matches(command: &Command, args: &[OsString]) -> Result<(ArgMatches, Variables), Refused> {
    let as_declared = command;
    // This first pass ignores errors, because it only finds `--env-file` and the name of the command.
    let guessed = command.clone().ignore_errors(true).try_get_matches_from(args).ok();
    let file = guessed.as_ref().and_then(|matches| matches.get_one::<PathBuf>("env_file"));
    let variables = Variables::read(file)?;
    let mut command = lenient(command.clone(), &|name| variables.get(name));
    let mut unusable = unreadable(as_declared, guessed.as_ref());
    loop {
        let error = match command.clone().try_get_matches_from(args) {
            Ok(matches) if unusable.is_empty() => return Ok((matches, variables)),
            Ok(others) => {
                return Err(Refused::Variables(
                    unusable,
                    Some(Box::new(others)),
                    variables.oddities(as_declared),
                ));
            }
            Err(error) => error,
        };
        match variable_at_fault(as_declared, args, &variables, &error) {
            Some((declared, error)) => {
                unusable.push(error);
                // clap reports only one error at a time. The next try omits this variable and so shows the next error.
                command = without(command, declared);
            }
            None if unusable.is_empty() => return Err(Refused::CommandLine(error)),
            None => return Err(Refused::Variables(unusable, None, variables.oddities(as_declared))),
        }
    }
}

/// Returns a message for each variable of the matched command whose value is not UTF-8.
fn unreadable(command: &Command, matches: Option<&ArgMatches>) -> Vec<String> {
    let name = matches.and_then(ArgMatches::subcommand_name);
    let own = name.and_then(|name| command.find_subcommand(name));
    let settings = command.get_arguments().chain(own.into_iter().flat_map(Command::get_arguments));
    let names = settings.filter_map(|arg| arg.get_env()?.to_str());
    let unreadable = names.filter(|name| matches!(std::env::var(name), Err(VarError::NotUnicode(_))));
    unreadable.map(|name| format!("{name} cannot be used: it is not UTF-8")).collect()
}

#[derive(Debug)]
pub(super) enum Refused {
    /// The command line is wrong, or asks for help.
    CommandLine(clap::Error),
    /// Some variables are unusable. Holds a message for each, which begins with the variable's name; the parsed rest of
    /// the settings, if clap accepts the rest; and the warnings about lines of `--env-file`.
    Variables(Vec<String>, Option<Box<ArgMatches>>, Vec<String>),
}

type Found = Option<(String, Stands)>;

fn lenient(command: Command, variable: &dyn Fn(&str) -> Found) -> Command {
    let command = command.mut_args(|arg| lenient_arg(arg, variable));
    command.mut_subcommands(|command| lenient(command, variable))
}

fn lenient_arg(arg: Arg, variable: &dyn Fn(&str) -> Found) -> Arg {
    let Some(name) = arg.get_env().and_then(|name| name.to_str()) else { return arg };
    let Some((value, stands)) = variable(name) else {
        return if std::env::var_os(name).is_some() { arg.env(None::<&'static str>) } else { arg };
    };
    let meant = unquoted(value.trim()).trim();
    if meant.is_empty() {
        return arg.env(None::<&'static str>);
    }
    let possible = arg.get_possible_values();
    let is_bool = !arg.get_action().takes_values()
        || (possible.len() == 2
            && possible.iter().all(|value| ["true", "false"].contains(&value.get_name())));
    let meant = if is_bool { bool_word(meant) } else { meant };
    if meant == value && stands == Stands::InEnvironment {
        return arg;
    }
    // clap needs a `'static` value. Leaking it is harmless, because a process parses its command line only once.
    let meant: &'static str = Box::leak(meant.to_owned().into_boxed_str());
    let takes_values = arg.get_action().takes_values();
    let arg = arg.env(None::<&'static str>).default_value(meant);
    if takes_values { arg.hide_default_value(true) } else { arg }
}

/// Removes one pair of quotes around the value, unless the value contains the same quote elsewhere.
fn unquoted(value: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| {
            value.strip_prefix(quote)?.strip_suffix(quote).filter(|inner| !inner.contains(quote))
        })
        .unwrap_or(value)
}

fn bool_word(word: &str) -> &str {
    match word.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "on" => "true",
        "false" | "0" | "no" | "n" | "off" => "false",
        _ => word,
    }
}

/// If a variable caused clap's error, returns the argument that reads this variable, and a message about the variable.
fn variable_at_fault<'a>(
    command: &'a Command,
    args: &[OsString],
    variables: &Variables,
    error: &clap::Error,
) -> Option<(&'a Arg, String)> {
    if !matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
        return None;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    // `flag` looks like `--concurrency <CONCURRENCY>`.
    let flag = flag.strip_prefix("--")?.split([' ', '=', '[']).next()?;
    let arg = find(command, flag)?;
    let given = args
        .iter()
        .filter_map(|arg| arg.to_str()?.strip_prefix("--"))
        .any(|given| given.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')));
    let name = arg.get_env().and_then(|name| name.to_str()).filter(|_| !given)?;
    variables.get(name)?;
    let why = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => in_plain_words(source.to_string()),
        (None, Some(ContextValue::Strings(valid))) => format!("it is none of {}", valid.join(", ")),
        _ => "it has an unusable value".to_owned(),
    };
    Some((arg, format!("{name} cannot be used: {why}")))
}

/// Replaces parse errors of the standard library by texts that name the expected value.
fn in_plain_words(why: String) -> String {
    let known = match why.as_str() {
        "invalid digit found in string" => "it is no whole number",
        "number too large to fit in target type" => "the number is too large",
        "number too small to fit in target type" => "the number is too small",
        "invalid float literal" => "it is no number",
        "invalid socket address syntax" => {
            "it is no address with a port, such as 127.0.0.1:9464 or 0.0.0.0:9464"
        }
        _ => return why,
    };
    known.to_owned()
}

fn find<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    let here = command.get_arguments().find(|arg| arg.get_long() == Some(flag));
    here.or_else(|| command.get_subcommands().find_map(|command| find(command, flag)))
}

/// Makes the argument optional and detaches its variable, so that clap no longer fails because of the variable.
fn without(command: Command, declared: &Arg) -> Command {
    let unset = |arg: Arg| {
        let is_it = arg.get_long() == declared.get_long();
        if is_it { declared.clone().env(None::<&'static str>).required(false) } else { arg }
    };
    command.mut_args(unset).mut_subcommands(|command| without(command, declared))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn quotes_spaces_and_words_for_true_are_understood() {
        for (value, meant) in [
            ("x", "x"),
            ("\"x y\"", "x y"),
            ("'x'", "x"),
            ("\"a\" \"b\"", "\"a\" \"b\""),
            ("\"", "\""),
            ("\"\"", ""),
            ("{\"a\":1}", "{\"a\":1}"),
        ] {
            assert_eq!(unquoted(value), meant, "{value}");
        }
        for (word, meant) in
            [("YES", "true"), ("on", "true"), ("1", "true"), ("Off", "false"), ("maybe", "maybe")]
        {
            assert_eq!(bool_word(word), meant, "{word}");
        }
    }

    #[test]
    fn a_value_in_the_file_keeps_quotes_and_signs_such_as_hash_and_dollar() {
        for (line, name, value) in [
            ("A=b", "A", "b"),
            (" export A = 'b c' ", "A", "'b c'"),
            ("A=p#a$s=", "A", "p#a$s="),
            ("A=", "A", ""),
        ] {
            assert_eq!(variable(line), Some((name.to_owned(), value.to_owned())), "{line}");
        }
        for line in ["A", "=b", "a b=c", "0661 99=1"] {
            assert_eq!(variable(line), None, "{line}");
        }
    }

    #[test]
    fn empty_quoted_and_boolean_variables_are_normalized() {
        let read = |variables: &'static [(&str, &str)]| {
            let variable = move |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| ((*value).to_owned(), Stands::InFile))
            };
            let command = lenient(Cli::command(), &variable);
            let args = ["topup-worker", "run", "--encryption-key", "k", "--oneclickdz-api-key", "k"];
            let matches = command.try_get_matches_from(args);
            matches.map(|matches| matches.subcommand_matches("run").unwrap().clone())
        };
        let concurrency = |matches: &ArgMatches| {
            matches.get_raw("concurrency").unwrap().next().unwrap().to_str().unwrap().to_owned()
        };
        let default = concurrency(&read(&[]).unwrap());
        assert_eq!(concurrency(&read(&[("CONCURRENCY", "")]).unwrap()), default, "empty means not set");
        assert_eq!(concurrency(&read(&[("CONCURRENCY", " \"7\"\n")]).unwrap()), "7");
        for (value, allowed) in [("yes", true), ("0", false), ("", false), ("'on'", true)] {
            let variables: &'static [(&str, &str)] = Box::leak(Box::new([("ALLOW_INSECURE_SMS", value)]));
            assert_eq!(read(variables).unwrap().get_flag("allow_insecure_sms"), allowed, "{value}");
        }
    }
}
