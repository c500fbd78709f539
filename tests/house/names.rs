//! Names are those of `docs/glossary.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::{all_code, first_name, shipped_sources};

/// Names that were replaced by standard terms: see `docs/glossary.md`.
const OLD_NAMES: &str = "allocate_more and_more asked_bytes believed_us beside_bytes binding \
    Birth birth births_t Bond Breath breath Cause Census choose_listed close_gate closed_gate \
    commit_words contest count_words current_span door_world empty_word every_allocation \
    every_call Factory faded Former gate give_up glean Gleaner gleaner Ground grown hands \
    has_words heal held_closes held_t hide hide_large hostile hurry in_return is_bare is_shut \
    keeping_errno kernel_truth large_lead Latch lead leads less_start let_collector_be let_go List \
    listable look_at look_at_freed look_in look_settled lua_module_world make_current Mark \
    may_shed misses Mood mood move_over NEWS_BYTES NEWS_US next_lead no_bond NO_GATE no_tool \
    not_committed note_aside note_held note_stayed open_reserve park parked Recall recall \
    recall_pages Regret regretted renew reopen resize_elsewhere resize_or_free_elsewhere \
    resize_outside Rest rest_until_us roll say_block say_why_none scarred scars set_told shed \
    shedding Sight slot_at_hand sound_small Stage Stair Stamp stirred suits take_aside take_away \
    take_back take_refusal_back tell_of_closed tell_of_ends tell_of_shortage tell_once tell_unused \
    through_say Tide told_by_signal UNDER_WAY unforeseen unkind unkind_enter unkind_leave \
    unkind_refuses useless Verdict verify_hidden vm_again vm_forget vm_little vms_settle Watched \
    wipe with_reserve with_room words_touched ZONE zone_ask";

/// What begins a line that is all comment.
const COMMENT: [&str; 4] = ["//", "/*", "* ", "--"];

fn is_comment(line: &str) -> bool {
    COMMENT.iter().any(|start| line.trim_start().starts_with(start))
}

/// The identifiers of a text, without those in comments and in strings on one line; those of the
/// nginx module without their prefix.
fn identifiers(text: &str) -> impl Iterator<Item = &str> {
    let code = text.lines().filter(|line| !is_comment(line));
    let code = code.flat_map(|line| line.split("//").next()).flat_map(|line| {
        // What stands between two quotes is not code.
        line.split('"').step_by(2)
    });
    let names = code.flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_'));
    names.map(|name| name.strip_prefix("ngx_http_ebbtide_").unwrap_or(name))
}

#[test]
fn no_old_name_is_back() {
    let old: Vec<&str> = OLD_NAMES.split_whitespace().collect();
    let is_old = |name: &&str| old.contains(name);
    assert_eq!(identifiers("a.parked(\"lead\"); // gate\n * mood").find(is_old), Some("parked"));
    assert_eq!(identifiers("ngx_http_ebbtide_held_t *x;").find(is_old), Some("held_t"));
    assert!(!identifiers("let s = \"lead\"; // gate\n * mood\nleader").any(|name| is_old(&name)));
    let mut wrong = String::new();
    for file in all_code() {
        let text = fs::read_to_string(&file).expect("a source file");
        let found: BTreeSet<&str> = identifiers(&text).filter(is_old).collect();
        if !found.is_empty() {
            wrong += &format!("{}: {found:?}: see docs/glossary.md\n", file.display());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Beginnings of words for what has a standard term: a split mapping, the slots of the last spans,
/// the trend, a premature refault.
const OLD_WORDS: [&str; 4] = ["scar", "glean", "mood", "regret"];

/// The words of a text that begin so, in comments, strings and names of several words.
fn old_words(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_alphabetic());
    // What is rare is scarce.
    let words = words.filter(|word| !word.to_lowercase().starts_with("scarc"));
    words.filter(|word| OLD_WORDS.iter().any(|old| word.to_lowercase().starts_with(old)))
}

#[test]
fn no_old_word_is_back_in_comments() {
    assert_eq!(old_words("// Renews what is scarred.\n").next(), Some("scarred"));
    assert_eq!(old_words("let the_Mood = \"scarce\";").collect::<Vec<_>>(), ["Mood"]);
    for file in all_code() {
        let text = fs::read_to_string(&file).expect("a source file");
        let found: BTreeSet<&str> = old_words(&text).collect();
        assert!(found.is_empty(), "{}: {found:?}: see docs/glossary.md", file.display());
    }
}

#[test]
fn each_type_has_a_name_of_its_own() {
    let mut homes: BTreeMap<String, PathBuf> = BTreeMap::new();
    for source in shipped_sources() {
        for line in source.code() {
            let line = line.trim_start().trim_start_matches("pub(crate) ");
            let line =
                line.trim_start_matches("pub(super) ").trim_start_matches("pub(in crate::heap) ");
            let Some(name) = ["struct ", "enum "].iter().find_map(|it| line.strip_prefix(it))
            else {
                continue;
            };
            let other = homes.insert(first_name(name).to_owned(), source.path.clone());
            assert!(other.is_none(), "{line}: also in {other:?}, not only {:?}", source.path);
        }
    }
    assert!(homes.len() > 100, "{} types", homes.len());
}
