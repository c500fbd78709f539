//! What is generated and committed is current: `include/ebbtide.h`, which cbindgen makes of `src/capi`
//! and `src/lua_module.rs`, and the nginx module's page as C. What the header's statistics say is said
//! by Lua and by nginx, too.

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn header_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut fresh = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_after_include(format!(
            "\n/** The version of this header; ebb_version() returns that of the library. */\n\
             #define EBB_VERSION \"{}\"\n\
             \n/** A Lua VM, as lua.h declares it. */\n\
             struct lua_State;",
            env!("CARGO_PKG_VERSION")
        ))
        .with_src(root.join("src/capi/types.rs"))
        .with_src(root.join("src/capi.rs"))
        .with_src(root.join("src/capi/checked.rs"))
        .with_src(root.join("src/capi/environment.rs"))
        .with_src(root.join("src/capi/vm.rs"))
        .with_src(root.join("src/capi/builtin.rs"))
        .with_src(root.join("src/capi/preload.rs"))
        .with_src(root.join("src/lua_module.rs"))
        .generate()
        .expect("cbindgen reads src/capi")
        .write(&mut fresh);
    let fresh = without_safety_sections(&String::from_utf8(fresh).expect("the header is UTF-8"));
    compare(&root.join("include/ebbtide.h"), &fresh);
}

/// The names of the functions that a header declares.
fn declared_functions(header: &str) -> Vec<String> {
    let comments = header.split("*/").filter_map(|part| part.split("/*").next());
    let code: String =
        comments.flat_map(str::lines).filter(|line| !line.starts_with('#')).collect();
    let functions = code.split(';').filter_map(|item| item.split_once('(')).map(|(head, _)| head);
    functions.filter_map(|head| head.rsplit([' ', '*']).next()).map(str::to_owned).collect()
}

/// Declarations of other libraries' functions would collide with the program's own.
#[test]
fn only_functions_of_this_library_are_declared() {
    let text = "/* a(); */\n#define B(x) x\nint a_b(void);\n/**\n * c()\n */\nchar *ebb_d(int (*e)(int),\n  int f);\n";
    assert_eq!(declared_functions(text), ["a_b", "ebb_d"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/ebbtide.h");
    let functions = declared_functions(&std::fs::read_to_string(path).expect("the header"));
    assert!(functions.len() > 20, "{functions:?}");
    let is_ours = |name: &&String| {
        ["ebb_", "luaopen_", "__wrap_"].iter().any(|prefix| name.starts_with(prefix))
    };
    let others: Vec<&String> = functions.iter().filter(|name| !is_ours(name)).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn page_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("nginx");
    let page = std::fs::read_to_string(folder.join("page.html")).expect("the page");
    let quoted =
        |line: &str| format!("    \"{}\\n\"\n", line.replace('\\', "\\\\").replace('"', "\\\""));
    let lines: String = page.lines().map(quoted).collect();
    let fresh = format!(
        "\n/* Made of page.html by `make header`. */\n\n\n\
         static const char  ngx_http_ebbtide_page[] =\n{lines}    ;\n"
    );
    compare(&folder.join("src/ngx_http_ebbtide_page.h"), &fresh);
}

/// Fields of `ebb_stats` that Lua's `stats()` does not have: what the caller sets, tables, and what
/// takes a question to the kernel.
const NOT_IN_LUA: [&str; 5] = ["size", "flags", "class_count", "classes", "kernel_resident"];

/// What nginx's JSON, Lua's `stats("all")` and the metrics call a field of `ebb_stats`, each of a whole
/// process; empty: a text, or that of one VM, is not there.
const IN_NGINX: [(&str, &str, &str, &str); 23] = [
    ("reserved", "reserved", "reserved", "reserved_bytes"),
    ("committed", "committed", "committed", "committed_bytes"),
    ("live", "live", "live", "live_bytes"),
    ("waste", "waste", "waste", "waste_bytes"),
    ("free_resident", "free_resident", "free_resident", "free_resident_bytes"),
    ("returned", "returned", "returned", "returned_bytes"),
    ("metadata", "metadata", "metadata", "metadata_bytes"),
    ("resident", "resident", "resident", "resident_bytes"),
    ("returned_total", "returned_total", "returned_total", "given_back_bytes_total"),
    ("trend", "trend", "", ""),
    ("limit_soft", "limit_soft", "limit_soft", "limit_soft_bytes"),
    ("limit_hard", "limit_hard", "limit_hard", "limit_hard_bytes"),
    ("pressure", "pressure", "pressure", "pressure_ratio"),
    ("refaulted_asked", "refaulted_total", "refaulted_total", "refaulted_bytes_total"),
    (
        "premature_refaults_asked",
        "premature_refaults_total",
        "premature_refaults_total",
        "premature_refaults_bytes_total",
    ),
    ("previous_live", "live", "live", "live_bytes"),
    ("previous_reserved", "reserved", "reserved", "reserved_bytes"),
    ("previous_resident", "resident", "resident", "resident_bytes"),
    ("purge_errno", "purge_errno", "purge_errno", "purge_errno"),
    (
        "refused_allocations",
        "refused_allocations",
        "refused_allocations",
        "refused_allocations_total",
    ),
    (
        "refused_address_space",
        "refused_address_space",
        "refused_address_space",
        "refused_address_space_total",
    ),
    ("thrashing", "thrashing_vms", "thrashing_vms", "thrashing_vms"),
    ("previous_damaged", "previous_damaged_vms", "previous_damaged_vms", "previous_damaged_vms"),
];

/// Fields that say nothing of a whole process: those that Lua does not have either, inner workings of
/// one heap, its steps (nginx measures its own slices), and parts of sums.
const NOT_IN_NGINX: &str = "size flags class_count classes kernel_resident
    never_touched resident_peak blocks large_blocks spans
    commit_calls purge_calls remap_calls failed_calls reclaim_passes purge_refused
    keep floor floor_reason due idle_age_ms
    steps step_p50_us step_p99_us step_max_us
    returned_asked returned_idle returned_limit
    refaulted_idle refaulted_limit premature_refaults_idle premature_refaults_limit";

/// What nginx's JSON has of its own: of the answer, of the process, and of the module.
const NGINX_ALONE: &str = "version nginx time_ms can_reclaim workers
    process worker pid state since_ms updated_ms rss vms restarts history
    count phase steps p50_us p99_us max_us";

/// Each field of `ebb_stats` is in Lua's statistics, in nginx's JSON, in `stats(\"all\")` and in the
/// metrics, or is named above with the reason.
#[test]
fn every_figure_is_at_every_door() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |path: &str| std::fs::read_to_string(root.join(path)).expect(path);
    let header = text("include/ebbtide.h");
    let fields = between(&header, "typedef struct ebb_stats {", "} ebb_stats;");
    let fields: BTreeSet<&str> = fields
        .lines()
        .filter_map(|line| line.strip_suffix(';')?.rsplit([' ', '*']).next())
        .collect();
    assert!(fields.contains("live") && fields.contains("classes"), "{fields:?}");

    let lua = text("src/lua_module/functions.rs");
    let numbers = between(&lua, "fields!(ebb_stats:", ");").split_whitespace();
    let flags = lua.split("stack.flag(c\"").skip(1).filter_map(|rest| {
        let (name, value) = rest.split_once('"')?;
        value.starts_with(&format!(", stats.{name}")).then_some(name)
    });
    assert_eq!(numbers.chain(flags).chain(NOT_IN_LUA).collect::<BTreeSet<_>>(), fields, "in Lua");

    let in_nginx = IN_NGINX.iter().map(|row| row.0);
    assert_eq!(in_nginx.chain(NOT_IN_NGINX.split_whitespace()).collect::<BTreeSet<_>>(), fields);
    let own = NGINX_ALONE.split_whitespace();
    let json = text("nginx/src/ngx_http_ebbtide_status_json.c");
    let there = json.split("\\\"").skip(1).step_by(2).filter(|name| !name.contains(['%', ' ']));
    let named = IN_NGINX.iter().map(|row| row.1).chain(own);
    assert_eq!(there.collect::<BTreeSet<_>>(), named.collect::<BTreeSet<_>>(), "in JSON");

    let resty = text("nginx/src/ngx_http_ebbtide_resty.c");
    let metrics = text("nginx/src/ngx_http_ebbtide_status_metrics.c");
    for (field, _, in_lua, metric) in IN_NGINX.iter().filter(|row| !row.3.is_empty()) {
        assert!(resty.contains(&format!("\"{in_lua}\"")), "{field} is not in stats(\"all\")");
        assert!(metrics.contains(&format!("\"ebbtide_{metric}\"")), "{field} is in no metric");
    }
}

/// The text between two others.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).expect(start);
    rest.split_once(end).expect(end).0
}

/// With `EBBTIDE_BLESS=1` (`make header`) writes the file; otherwise compares it.
fn compare(path: &Path, fresh: &str) {
    if std::env::var_os("EBBTIDE_BLESS").is_some() {
        std::fs::write(path, fresh).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == fresh, "{} is stale: run `make header` and commit it", path.display());
}

/// `#define NAME -1` with its value in parentheses, so that it is safe in any expression.
fn in_parentheses(line: &str) -> String {
    match line.split_once(" -") {
        Some((define, value)) if define.starts_with("#define ") => format!("{define} (-{value})"),
        _ => line.to_owned(),
    }
}

/// Rust's `# Safety` sections say in Rust's terms what the C comment has said already.
fn without_safety_sections(header: &str) -> String {
    let mut kept = String::new();
    let mut skipping = false;
    for line in header.lines() {
        skipping |= line == " * # Safety";
        skipping &= line != " */";
        if !skipping {
            kept.push_str(&in_parentheses(line));
            kept.push('\n');
        }
    }
    kept.replace(" *\n */", " */")
}
