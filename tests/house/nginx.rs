//! The units of the nginx module: each includes only those before it in the list in `nginx/config`,
//! and its header names them.

use std::fs;

use super::root;

/// A unit's text: its header, if it has one, and its code.
struct Unit {
    name: String,
    header: String,
    code: String,
}

const PREFIX: &str = "ngx_http_ebbtide_";

/// The unit on top, which has no header: nginx finds it by its name.
const TOP: &str = "module";

/// Made of page.html, and no unit.
const PAGE: &str = "page";

/// The names in `ebbtide_units`, lowest first, and `module` above them.
fn names() -> Vec<String> {
    let config = fs::read_to_string(root().join("nginx/config")).expect("nginx/config");
    let list = config.split_once("ebbtide_units=\"").expect("a list of units").1;
    let list = list.split('"').next().unwrap_or_default();
    let names = list.split_whitespace().filter(|word| *word != "\\");
    names.chain([TOP]).map(str::to_owned).collect()
}

fn units() -> Vec<Unit> {
    let read = |name: &str, end: &str| {
        let path = root().join("nginx/src").join(format!("{PREFIX}{name}.{end}"));
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let unit = |name: String| {
        let header = if name == TOP { String::new() } else { read(&name, "h") };
        Unit { header, code: read(&name, "c"), name }
    };
    names().into_iter().map(unit).collect()
}

impl Unit {
    /// The other units whose headers it includes.
    fn includes(&self) -> Vec<&str> {
        let lines = self.header.lines().chain(self.code.lines());
        let files = lines.filter_map(|line| line.strip_prefix("#include \""));
        let names = files.filter_map(|file| file.strip_prefix(PREFIX)?.strip_suffix(".h\""));
        names.filter(|name| *name != self.name && *name != PAGE).collect()
    }

    /// What it includes that does not stand before it in the list, as messages.
    fn upward(&self, names: &[String]) -> Vec<String> {
        let height = |name: &str| names.iter().position(|other| other == name);
        let own = height(&self.name);
        let wrong = self
            .includes()
            .into_iter()
            .filter(|name| height(name).is_none_or(|used| Some(used) > own));
        wrong.map(|name| format!("{} uses {name}, which is above it", self.name)).collect()
    }

    /// The comment at the top: what the unit does, and what it uses.
    fn comment(&self) -> String {
        let text = if self.name == TOP { &self.code } else { &self.header };
        let comment = text.strip_prefix("\n/*\n").and_then(|text| text.split_once("*/"));
        let lines =
            comment.unwrap_or_default().0.lines().map(|line| line.trim_start_matches([' ', '*']));
        lines.collect::<Vec<_>>().join(" ")
    }

    /// The last sentence of that comment, as it has to be.
    fn uses(&self, names: &[String]) -> String {
        let includes = self.includes();
        let used = names.iter().filter(|name| includes.contains(&name.as_str()));
        let used: Vec<&str> = used.map(String::as_str).collect();
        if used.is_empty() {
            "Uses nginx alone.".into()
        } else {
            format!("Uses {}.", used.join(", "))
        }
    }

    /// Functions of other files that its code declares by itself.
    fn smuggled(&self) -> impl Iterator<Item = &str> {
        let code = self.code.lines();
        code.filter(|line| line.starts_with(char::is_alphabetic) && line.contains(PREFIX))
            .filter(|line| line.contains('(') && !line.starts_with(PREFIX))
            .filter(|line| !line.starts_with("static ") && !line.starts_with("typedef "))
    }

    /// The functions of its code, with their lines.
    fn functions(&self) -> Vec<(&str, usize)> {
        let (mut functions, mut name, mut start) = (Vec::new(), "", 0);
        for (number, line) in self.code.lines().enumerate() {
            if line.starts_with(PREFIX) || line.starts_with("__wrap_") {
                (name, start) = (line.split('(').next().unwrap_or_default(), number);
            }
            if line == "}" {
                functions.push((name, number - start + 1));
            }
        }
        functions
    }
}

#[test]
fn every_unit_uses_only_those_before_it() {
    let names = names();
    let wrong: Vec<String> = units().iter().flat_map(|unit| unit.upward(&names)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for unit in units() {
        let smuggled: Vec<&str> = unit.smuggled().collect();
        assert!(smuggled.is_empty(), "{}: in no header: {}", unit.name, smuggled.join("\n"));
    }
}

#[test]
fn every_header_says_what_its_unit_uses() {
    let names = names();
    for unit in units() {
        let (comment, uses) = (unit.comment(), unit.uses(&names));
        assert!(comment.trim_end().ends_with(&uses), "{}: {uses}\n{comment}", unit.name);
        assert!(comment.len() > uses.len() + 20, "{}: what does the unit do?", unit.name);
    }
}

#[test]
fn every_file_belongs_to_a_unit() {
    let names = names();
    assert!(names.len() > 20, "{names:?}");
    for entry in fs::read_dir(root().join("nginx/src")).expect("nginx/src is readable") {
        let file = entry.expect("an entry").file_name().into_string().expect("a name");
        let name = file.strip_prefix(PREFIX).and_then(|name| name.rsplit_once('.'));
        let known = name.is_some_and(|(name, end)| match end {
            "c" => names.iter().any(|unit| unit == name),
            "h" => name == PAGE || name != TOP && names.iter().any(|unit| unit == name),
            _ => false,
        });
        assert!(known, "{file} belongs to no unit of nginx/config");
    }
}

#[test]
fn units_functions_and_lines_of_the_module_stay_short() {
    for unit in units() {
        let name = &unit.name;
        let lines = unit.code.lines().count();
        assert!(lines <= 450, "{name} has {lines} lines: split it by concern");
        for (function, lines) in unit.functions() {
            assert!(lines <= 64, "{function} has {lines} lines: a screen has 60");
        }
        for line in unit.header.lines().chain(unit.code.lines()) {
            assert!(line.len() <= 80, "{name}: over 80 columns: {line}");
        }
    }
}

#[test]
fn an_include_upwards_would_be_seen() {
    let names = names();
    let unit = |name: &str, text: &str| {
        let include = format!("#include \"{PREFIX}{text}.h\"\n");
        Unit { name: name.into(), header: String::new(), code: include }
    };
    let wrong = |name: &str, text: &str| !unit(name, text).upward(&names).is_empty();
    assert!(wrong("vm", "zone"));
    assert!(wrong("util", "lua_api"));
    assert!(wrong("zone", "cellar"));
    assert!(!wrong("zone", "vm"));
    assert!(!wrong("zone", "zone"));
    assert!(!wrong("status", "page"));
    let code = "void ngx_http_ebbtide_zone_leave(void);\n".into();
    let vm = Unit { name: "vm".into(), header: String::new(), code };
    assert_eq!(vm.smuggled().count(), 1);
}
