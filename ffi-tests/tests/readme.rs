//! What the README and docs/embedding.md show compiles and runs as it stands there.

use std::process::Command;

use ebbtide_ffi_tests::{Language, clean, compiler, finish, installed, scratch};
use ebbtide_runtimes::{EBBTIDE_LINK_FLAGS, LUAJIT, repository};

/// The blocks of code in a language on a page.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(repository().join(page)).expect("the page");
    let start = format!("```{language}\n");
    let blocks = text.split(&start).skip(1);
    blocks.filter_map(|block| block.split("```").next()).map(str::to_owned).collect()
}

fn c_blocks() -> Vec<String> {
    blocks("docs/embedding.md", "c")
}

#[test]
fn the_lua_of_the_readme_runs_in_a_stock_luajit() {
    let script = scratch("readme").join("synopsis.lua");
    let [question, synopsis] = &blocks("README.md", "lua")[..] else { panic!("not two blocks") };
    let text = format!("{question}do\n{synopsis}\nio.write(stats.allocator)\nend");
    std::fs::write(&script, text).expect("the target directory can be written");
    let output = finish(
        clean("luajit")
            .env("LUA_PATH", repository().join("lua/?.lua"))
            .env("LUA_CPATH", installed().lib().join("lua/5.1/?.so"))
            .arg(&script),
    );
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(said.starts_with("LuaJIT's own allocator") && said.ends_with("ebbtide"), "{said}");
}

/// Compiles a C program against LuaJIT and ebbtide.
fn compile(name: &str, text: &str) -> Command {
    let source = scratch("readme").join(format!("{name}.c"));
    std::fs::write(&source, text).expect("the target directory can be written");
    let program = source.with_extension("");
    let mut command = compiler(Language::C);
    command.arg("-I").arg(installed().include()).args(["-I", LUAJIT.include_dir, "-o"]);
    command.arg(&program).arg(&source).args(["-x", "none"]).arg(installed().archive());
    command.arg(LUAJIT.library).args(LUAJIT.link_flags).args(EBBTIDE_LINK_FLAGS);
    finish(&mut command);
    clean(program)
}

#[test]
fn the_synopsis_runs_and_gives_memory_back() {
    let output = finish(&mut compile("synopsis", &c_blocks()[0]));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let returned: u64 =
        text.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
    assert!(returned > 50_000_000, "a million tables were dropped: {text}");
}

#[test]
fn the_other_pieces_compile_and_tell_the_truth() {
    let blocks = c_blocks();
    let [reclaim, pressure, stats] = [1, 2, 3].map(|index| &blocks[index]);
    let check = "if (stats.committed != stats.live + stats.waste + stats.free_resident\n\
                 + stats.returned + stats.never_touched + stats.metadata) return 1;";
    let program = format!(
        "#include <ebbtide.h>\nint main(void) {{\nebb_heap *heap = ebb_heap_new(NULL);\n\
         {{ {reclaim} }}\n{{ {pressure} }}\n{{ {stats}\n{check} }}\nebb_heap_delete(heap);\nreturn 0;\n}}\n"
    );
    finish(&mut compile("pieces", &program));
}
