//! The code that the pages show: commands exist and take their options, Lua runs, C and Python
//! compile, as they stand there. What nginx says of configurations is with the tests of nginx.

mod commands;
mod shell;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use ebbtide_ffi_tests::pages::{Code, blocks, parts};
use ebbtide_ffi_tests::{Language, clean, compiler, finish, installed, scratch};
use ebbtide_runtimes::{EBBTIDE_LINK_FLAGS, LUAJIT, repository};

/// What each block says that it is in: `console` has commands behind a prompt, and their output;
/// `text` is nothing that runs.
const LANGUAGES: &[&str] = &["c", "console", "lua", "nginx", "python", "sh", "text"];

#[test]
fn every_block_has_a_language() {
    let without = blocks().into_iter().filter(|b| !LANGUAGES.contains(&b.language.as_str()));
    let without: Vec<String> =
        without.map(|block| format!("{}: {:?}", block.place(), block.language)).collect();
    assert!(without.is_empty(), "one of {LANGUAGES:?} is needed:\n{}", without.join("\n"));
}

/// The code in a language: the blocks, and what commands have in them.
fn code_in(language: &str) -> Vec<Code> {
    let all = blocks().into_iter().chain(commands::inner());
    let code: Vec<Code> = all.filter(|code| code.language == language).collect();
    assert!(!code.is_empty(), "no page has {language}");
    code
}

/// A file with a piece of code, named after its place.
fn file_of(code: &Code, index: usize, extension: &str) -> PathBuf {
    let name = format!("{}-{}-{index}.{extension}", code.page.replace('/', "-"), code.line);
    let file = scratch("readme").join(name);
    fs::write(&file, &code.text).expect("the target directory can be written");
    file
}

/// Runs interpreters on all files at once; each says what is wrong, and of which file.
fn compiles(mut command: Command, code: &[Code], extension: &str) {
    let files = code.iter().enumerate().map(|(index, code)| file_of(code, index, extension));
    let output = finish(command.args(files));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

#[test]
fn all_lua_compiles() {
    let checker = scratch("readme").join("checker.lua");
    let text = "for _, file in ipairs(arg) do io.write(select(2, loadfile(file)) or '') end";
    fs::write(&checker, text).expect("the target directory can be written");
    let mut luajit = clean("luajit");
    luajit.arg(checker);
    compiles(luajit, &code_in("lua"), "lua");
}

#[test]
fn all_python_compiles() {
    let mut python = clean("python3");
    python.args(["-c", "import sys\nfor f in sys.argv[1:]: compile(open(f).read(), f, 'exec')"]);
    compiles(python, &code_in("python"), "py");
}

/// What an example may take for granted: the module, and nginx with its timers.
const WORLD: &str = r#"
local world = setmetatable({ allocator = require "ebbtide" }, { __index = _G })
local called = {}
world.ngx = {
  say = function() end,
  sleep = function() end,
  timer = {
    at = function(_, callback)
      if not called[callback] then
        called[callback] = true
        callback(false)
      end
      return true
    end,
  },
}
local text = assert(io.open(arg[1])):read("*a")
-- Options are those of a heap.
if text:find("configure", 1, true) then
  assert(world.allocator.attach())
end
setfenv(assert(loadstring(text)), world)()
"#;

/// All but code on a command line, which measures, and code that calls what only nginx has.
#[test]
fn all_lua_runs_in_a_stock_luajit() {
    let world = scratch("readme").join("world.lua");
    fs::write(&world, WORLD).expect("the target directory can be written");
    let blocks = blocks().into_iter().filter(|b| b.language == "lua");
    let blocks: Vec<Code> = blocks.filter(|block| block.page != "nginx/README.md").collect();
    assert!(blocks.len() >= 5, "{blocks:?}");
    for (index, block) in blocks.iter().enumerate() {
        let mut luajit = clean("luajit");
        luajit.env("LUA_PATH", repository().join("lua/?.lua"));
        luajit.env("LUA_CPATH", installed().lib().join("lua/5.1/?.so"));
        finish(luajit.arg(&world).arg(file_of(block, index, "run.lua")));
    }
}

#[test]
fn the_lua_of_the_readme_changes_the_allocator() {
    let lua: Vec<Code> = blocks().into_iter().filter(|b| b.language == "lua").collect();
    let ours: Vec<&Code> = lua.iter().filter(|block| block.page == "README.md").collect();
    let [question, synopsis] = ours[..] else { panic!("not two blocks: {ours:?}") };
    let text = format!("{}do\n{}\nio.write(stats.allocator)\nend", question.text, synopsis.text);
    let script = scratch("readme").join("synopsis.lua");
    fs::write(&script, text).expect("the target directory can be written");
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
    fs::write(&source, text).expect("the target directory can be written");
    let program = source.with_extension("");
    let mut command = compiler(Language::C);
    command.arg("-I").arg(installed().include()).args(["-I", LUAJIT.include_dir, "-o"]);
    command.arg(&program).arg(&source).args(["-x", "none"]).arg(installed().archive());
    command.arg(LUAJIT.library).args(LUAJIT.link_flags).args(EBBTIDE_LINK_FLAGS);
    finish(&mut command);
    clean(program)
}

/// Whole programs in C, and pieces.
fn c_blocks() -> (Vec<Code>, Vec<Code>) {
    code_in("c").into_iter().partition(|block| block.text.contains("int main("))
}

#[test]
fn the_synopsis_runs_and_gives_memory_back() {
    let (programs, _) = c_blocks();
    let [synopsis] = &programs[..] else { panic!("more than one program: {programs:?}") };
    let output = finish(&mut compile("synopsis", &synopsis.text));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let returned: u64 =
        text.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
    assert!(returned > 50_000_000, "a million tables were dropped: {text}");
}

/// All in one program, each in a block of its own. Those that read statistics must add up.
#[test]
fn the_other_pieces_compile_and_tell_the_truth() {
    let (_, pieces) = c_blocks();
    let check = "if (stats.committed != stats.live + stats.waste + stats.free_resident\n\
                 + stats.returned + stats.never_touched + stats.metadata) return 1;";
    let has_stats = |piece: &Code| piece.text.contains("ebb_stats stats");
    assert!(pieces.iter().any(has_stats), "{pieces:?}");
    let bodies = pieces.iter().map(|piece| {
        let check = if has_stats(piece) { check } else { "" };
        format!("#line {} \"{}\"\n{{ {}\n{check} }}\n", piece.line, piece.page, piece.text)
    });
    let program = format!(
        "#include <ebbtide.h>\nint main(void) {{\nebb_heap *heap = ebb_heap_new(NULL);\n\
         {}\nebb_heap_delete(heap);\nreturn 0;\n}}\n",
        bodies.collect::<String>()
    );
    finish(&mut compile("pieces", &program));
}

#[test]
fn pages_are_taken_apart() {
    let text = "A `b c` and `d\n  e`.\n\n```sh\nf `g`\n```\n| `h` | ` |\n\ni `j`\n";
    let code = |line, language: &str, text: &str| Code {
        page: "p.md".into(),
        line,
        language: language.into(),
        text: text.into(),
    };
    let spans = [code(1, "", "b c"), code(1, "", "d e"), code(7, "", "h"), code(9, "", "j")];
    assert_eq!(parts("p.md", text), (vec![code(4, "sh", "f `g`\n")], spans.to_vec()));
}
