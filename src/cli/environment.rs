//! The command line, with values of environment variables as `.env` files, compose files and Kubernetes make them.
//!
//! An empty variable is one that is not set. Spaces, a line's end and one pair of quotes around a value are none of it.
//! `yes`, `on` and `1` are `true`. Variables that cannot be used are named all at once, and their values are not
//! repeated.
//!
//! The file of `--env-file` holds `NAME=value` a line, as Docker reads such a file: a line that begins with `#` is a
//! comment, and nothing is put in the place of `$` or cut off behind a `#`, which may stand in a password.

use std::collections::HashMap;
use std::env::VarError;
use std::error::Error as _;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgMatches, Command};

/// The variables of the environment, and those of a file. The environment goes first, unless it says nothing.
#[derive(Debug, Default)]
pub(super) struct Variables {
    file: HashMap<String, String>,
}

/// Where the value of a variable stands.
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

    /// The value of a variable that is set.
    pub(super) fn get(&self, name: &str) -> Option<(String, Stands)> {
        let is_set = |value: &String| !value.trim().is_empty();
        let in_environment =
            std::env::var(name).ok().filter(is_set).map(|value| (value, Stands::InEnvironment));
        in_environment
            .or_else(|| Some((self.file.get(name).filter(|value| is_set(value))?.clone(), Stands::InFile)))
    }

    /// Names of those variables in the file of which this is so, in their order in the alphabet.
    fn names_in_file(&self, is: impl Fn(&str, &str) -> bool) -> Vec<String> {
        let found = self.file.iter().filter(|(name, value)| is(name, value));
        let mut names: Vec<_> = found.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }
}

/// Names of variables in the file that no command has as a setting.
pub(super) fn without_effect(variables: &Variables, command: &Command) -> Vec<String> {
    fn knows(command: &Command, name: &str) -> bool {
        command.get_arguments().any(|arg| arg.get_env().is_some_and(|env| env == name))
            || command.get_subcommands().any(|command| knows(command, name))
    }
    variables.names_in_file(|name, _| !knows(command, name))
}

/// Names of variables in the file whose values look as if a comment stood behind them.
pub(super) fn with_comment(variables: &Variables) -> Vec<String> {
    variables.names_in_file(|_, value| unquoted(value) == value && value.contains(" #"))
}

/// Both, in words.
fn in_words(variables: &Variables, command: &Command) -> Vec<String> {
    let unknown = without_effect(variables, command).into_iter();
    let unknown =
        unknown.map(|name| format!("{name} in the file of --env-file is no setting and has no effect"));
    let comments = with_comment(variables).into_iter();
    let comments = comments.map(|name| {
        format!(
            "{name} in the file of --env-file holds ` #`: what follows is part of its value, and no comment"
        )
    });
    unknown.chain(comments).collect()
}

fn read_file(path: &Path) -> Result<HashMap<String, String>, String> {
    let text = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let text = String::from_utf8(text).map_err(|_| "cannot be read: it is not UTF-8".to_owned())?;
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    lines
        .map(|(n, line)| variable(line).ok_or(format!("cannot be used: line {} is not NAME=value", n + 1)))
        .collect()
}

fn variable(line: &str) -> Option<(String, String)> {
    let (name, value) = line.trim().split_once('=')?;
    let name = name.strip_prefix("export ").unwrap_or(name).trim();
    let is_name =
        !name.is_empty() && name.bytes().all(|at| at.is_ascii_alphanumeric() || b"_.-".contains(&at));
    is_name.then(|| (name.to_owned(), value.trim().to_owned()))
}

/// Reads these arguments, the environment and the file that they name.
///
/// # Errors
/// [`Refused`] where they cannot be used.
pub(super) fn matches(command: &Command, args: &[OsString]) -> Result<(ArgMatches, Variables), Refused> {
    let as_declared = command;
    // For the file and the name of the command, whatever else is wrong with the arguments.
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
                    in_words(&variables, as_declared),
                ));
            }
            Err(error) => error,
        };
        match variable_at_fault(as_declared, args, &variables, &error) {
            Some((declared, told)) => {
                unusable.push(told);
                // So that the next one is found.
                command = without(command, declared);
            }
            None if unusable.is_empty() => return Err(Refused::CommandLine(error)),
            None => return Err(Refused::Variables(unusable, None, in_words(&variables, as_declared))),
        }
    }
}

/// Variables of this command that hold no text, in words.
fn unreadable(command: &Command, matches: Option<&ArgMatches>) -> Vec<String> {
    let name = matches.and_then(ArgMatches::subcommand_name);
    let own = name.and_then(|name| command.find_subcommand(name));
    let settings = command.get_arguments().chain(own.into_iter().flat_map(Command::get_arguments));
    let names = settings.filter_map(|arg| arg.get_env()?.to_str());
    let unreadable = names.filter(|name| matches!(std::env::var(name), Err(VarError::NotUnicode(_))));
    unreadable.map(|name| format!("{name} cannot be used: it is not UTF-8")).collect()
}

/// Why the program cannot begin.
#[derive(Debug)]
pub(super) enum Refused {
    /// The command line, or a wish for help.
    CommandLine(clap::Error),
    /// Variables of the environment, in words that begin with the name of each; and what there is without them, where
    /// that can be used.
    /// Then what else is odd in the file.
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
        // An empty one is not set.
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
    // It lives as long as the command line, which is read once.
    let meant: &'static str = Box::leak(meant.to_owned().into_boxed_str());
    let takes_values = arg.get_action().takes_values();
    let arg = arg.env(None::<&'static str>).default_value(meant);
    if takes_values { arg.hide_default_value(true) } else { arg }
}

/// The value without the quotes around it, where they are a pair and stand nowhere else in it.
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

/// The argument whose variable cannot be used, and what to tell of it.
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
    // As `--concurrency <CONCURRENCY>`.
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

/// What the standard library says of a value, in words that say what the value has to be.
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

/// The command as if this argument's variable were not set.
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
    fn a_line_of_a_file_is_a_variable_with_all_that_stands_behind_it() {
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
    fn variables_are_read_as_they_are_found() {
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
        assert_eq!(concurrency(&read(&[("CONCURRENCY", "")]).unwrap()), default, "an empty one is not set");
        assert_eq!(concurrency(&read(&[("CONCURRENCY", " \"7\"\n")]).unwrap()), "7");
        for (value, allowed) in [("yes", true), ("0", false), ("", false), ("'on'", true)] {
            let variables: &'static [(&str, &str)] = Box::leak(Box::new([("ALLOW_INSECURE_SMS", value)]));
            assert_eq!(read(variables).unwrap().get_flag("allow_insecure_sms"), allowed, "{value}");
        }
    }
}
