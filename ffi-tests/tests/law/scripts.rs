//! The scripts of the benches and of the tests as programs of the law.

/// Each with its arguments, and what it waits in afterwards. Not `exhaustion.lua`: stock LuaJIT does
/// not survive that.
const SCRIPTS: [(&str, &str); 31] = [
    ("binary_trees.lua", "poll"),
    ("blocks.lua 1e6 5e6", "nanosleep"),
    ("bounce.lua", "lightly"),
    ("cd.lua", "poll"),
    ("cjson_documents.lua", "nanosleep"),
    ("closures.lua", "lightly"),
    ("coroutine_storm.lua", "poll"),
    ("deltablue.lua", "nanosleep"),
    ("grow8m.lua", "lightly"),
    ("growth.lua", "poll"),
    ("havlak.lua", "nanosleep"),
    ("json.lua", "lightly"),
    ("json_objects.lua", "poll"),
    ("k_nucleotide.lua", "nanosleep"),
    ("lpeg_grammar.lua", "lightly"),
    ("lru_cache.lua", "poll"),
    ("replace.lua 1e6 2e6", "nanosleep"),
    ("richards.lua", "lightly"),
    ("router.lua", "poll"),
    ("scatter.lua", "nanosleep"),
    ("service.lua", "lightly"),
    ("stats.lua 100", "poll"),
    ("strings.lua", "nanosleep"),
    ("tables.lua", "lightly"),
    ("templates.lua", "poll"),
    // Six stretches of 17 seconds in all.
    (
        "traffic.lua peak:3:40000:20000 pause:3 peak:2:20000:20000 low:4:200:4000 \
         peak:2:30000:20000 drop:3",
        "nanosleep",
    ),
    ("service.lua 100000 3 3", "poll"),
    ("text.lua", "lightly"),
    ("coroutines.lua", "poll"),
    ("big_tables.lua", "nanosleep"),
    ("cdata.lua", "lightly"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use ebbtide_runtimes::repository;

    use crate::programs::SCRIPT_FOLDERS;

    /// What the law does not hold for yet. Programs with many small VMs are no scripts.
    const EXEMPT: [&str; 1] = ["string_builders.lua"];
    /// What scripts load, which is no program.
    const LOADED: [&str; 2] = ["memory.lua", "requests.lua"];

    #[test]
    fn every_script_of_the_benches_is_a_program_of_the_law_or_exempt_by_name() {
        let name = |(script, _): (&'static str, _)| script.split(' ').next().expect("a name");
        let programs = SCRIPTS.map(name);
        let known = [&programs[..], &EXEMPT, &LOADED].concat();
        let there = |folder: &str| -> Vec<String> {
            let files = repository().join(folder).read_dir().expect("a folder");
            let name = |file: std::fs::DirEntry| file.file_name().into_string().expect("UTF-8");
            files.map(|file| name(file.expect("a file"))).collect()
        };
        let folders = SCRIPT_FOLDERS.map(there);
        let unknown: Vec<_> =
            folders[0].iter().filter(|name| !known.contains(&&name[..])).collect();
        assert!(unknown.is_empty(), "in no law: {unknown:?}");
        let is_there = |name: &&&str| folders.iter().flatten().any(|file| file == **name);
        let missing: Vec<_> = known.iter().filter(|name| !is_there(name)).collect();
        assert!(missing.is_empty(), "there is no {missing:?}");
        let is_twice = |name: &&&str| EXEMPT.contains(name) || LOADED.contains(name);
        assert!(!programs.iter().any(|name| is_twice(&name)), "both in the law and exempt");
    }
}

mod full {
    use super::*;
    use crate::programs::{DOORS, NGINX_DOORS};
    use crate::{KINDS, all_keep};

    #[test]
    #[ignore = "takes longer"]
    fn scripts_of_the_benches_and_the_tests() {
        all_keep(SCRIPTS, &DOORS);
    }

    #[test]
    #[ignore = "takes longer"]
    fn what_a_handler_drops_in_nginx() {
        let kinds = KINDS.into_iter().filter(|(kind, _)| *kind != "pool");
        all_keep(kinds.map(|(kind, _)| (kind, "handler")), &NGINX_DOORS);
    }

    #[test]
    #[ignore = "takes longer"]
    fn scripts_in_a_timer_of_nginx() {
        all_keep(SCRIPTS.map(|(script, _)| (script, "timer")), &NGINX_DOORS);
    }

    #[test]
    #[ignore = "takes longer"]
    fn light_work_in_nginx() {
        all_keep(
            [("tables", "lightly"), ("survivors", "lightly"), ("block", "lightly")],
            &NGINX_DOORS,
        );
    }
}
