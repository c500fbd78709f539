//! `make install` and `make uninstall`, as a packager and a user meet them.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ebbtide_ffi_tests::{Language, Linkage};
use ebbtide_ffi_tests::{
    clean, compiler, finish, installed, make, release, scratch, source, text_of,
};
use ebbtide_runtimes::{SONAME, repository};

/// A prefix that exists nowhere, so that nothing is found by chance.
const PREFIX: &str = "/x";

/// Installs below an empty folder of this name.
fn install(name: &str) -> PathBuf {
    installed();
    let destination = scratch(name);
    std::fs::remove_dir_all(&destination).expect("the folder was just made");
    make(&["install"], &destination, PREFIX);
    destination
}

/// The files and links below `folder`, relative to it, sorted.
fn listing(folder: &Path) -> Vec<String> {
    let listing =
        text_of(Command::new("find").arg(folder).args(["!", "-type", "d", "-printf", "%P\n"]));
    let mut names: Vec<String> = listing.lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// What pkg-config says of the library installed below `destination`.
fn pkg_config(destination: &Path, options: &[&str]) -> Vec<String> {
    let flags = text_of(
        Command::new("pkg-config")
            .env("PKG_CONFIG_PATH", destination.join("x/lib/pkgconfig"))
            .env("PKG_CONFIG_SYSROOT_DIR", destination)
            .args(options)
            .arg("ebbtide"),
    );
    flags.split_whitespace().map(str::to_owned).collect()
}

/// Builds the consumer with nothing but what pkg-config says.
fn consumer(destination: &Path, linkage: Linkage) -> PathBuf {
    let program = destination.join("consumer");
    let mut command = compiler(Language::C);
    command.arg("-o").arg(&program).arg(source("interface/consumer.c")).args(["-x", "none"]);
    match linkage {
        Linkage::Shared => command.args(pkg_config(destination, &["--cflags", "--libs"])),
        Linkage::Archive => command
            .arg("-static")
            .args(pkg_config(destination, &["--static", "--cflags", "--libs"])),
    };
    finish(&mut command);
    program
}

#[test]
fn installs_all_that_a_user_needs() {
    let destination = install("install-listing");
    let real = format!("x/lib/libebbtide.so.{}", pkg_config(&destination, &["--modversion"])[0]);
    let soname = format!("x/lib/{SONAME}");
    let mut expected = [
        "x/bin/ebbtide",
        "x/lib/libebbtide_preload.so",
        "x/lib/lua/5.1/ebbtide.so",
        "x/share/lua/5.1/ebbtide.lua",
        "x/share/lua/5.1/resty/ebbtide.lua",
        "x/include/ebbtide.h",
        "x/lib/libebbtide.a",
        "x/lib/libebbtide.so",
        &soname,
        &real,
        "x/lib/pkgconfig/ebbtide.pc",
    ];
    expected.sort();
    assert_eq!(listing(&destination), expected);
    for link in ["x/lib/libebbtide.so", &soname, "x/lib/lua/5.1/ebbtide.so"] {
        let link = destination.join(link);
        assert!(link.is_symlink(), "{}", link.display());
        assert_eq!(link.canonicalize().ok(), destination.join(&real).canonicalize().ok());
    }
}

#[test]
fn a_shared_program_needs_pkg_config_only() {
    let destination = install("install-shared");
    let program = consumer(&destination, Linkage::Shared);
    let said = text_of(clean(program).env("LD_LIBRARY_PATH", destination.join("x/lib")));
    assert_eq!(said, format!("ebbtide {}\n", pkg_config(&destination, &["--modversion"])[0]));
}

#[test]
fn a_static_program_needs_pkg_config_only() {
    let destination = install("install-static");
    let program = consumer(&destination, Linkage::Archive);
    assert!(text_of(&mut clean(program)).starts_with("ebbtide "));
}

/// OpenResty's way: both halves of the module in one folder, and nothing else.
#[test]
fn installs_the_lua_module_alone() {
    installed();
    let destination = scratch("install-lua");
    std::fs::remove_dir_all(&destination).expect("the folder was just made");
    let folders = ["LUA_LIB_DIR=/x/lualib", "LUA_CMODULE_DIR=/x/lualib"];
    make(&[&["install-lua"], &folders[..]].concat(), &destination, PREFIX);
    let expected = ["x/lualib/ebbtide.lua", "x/lualib/ebbtide.so", "x/lualib/resty/ebbtide.lua"];
    assert_eq!(listing(&destination), expected);
    let modules = destination.join("x/lualib");
    let said = text_of(
        clean("luajit")
            .env("LUA_PATH", modules.join("?.lua"))
            .env("LUA_CPATH", modules.join("?.so"))
            .args(["-e", "print(require('resty.ebbtide').heap().allocator)"]),
    );
    assert_eq!(said, "builtin\n");
}

/// An OpenResty's copy goes, the installation under the prefix stays.
#[test]
fn uninstalls_the_lua_module_alone() {
    let destination = install("uninstall-lua");
    let before = listing(&destination);
    let folders = ["LUA_LIB_DIR=/x/lualib", "LUA_CMODULE_DIR=/x/lualib"];
    make(&[&["install-lua"], &folders[..]].concat(), &destination, PREFIX);
    assert_eq!(listing(&destination).len(), before.len() + 3);
    make(&[&["uninstall-lua"], &folders[..]].concat(), &destination, PREFIX);
    assert_eq!(listing(&destination), before);
    assert!(!destination.join("x/lualib").exists());
    assert!(destination.join("x/lib/pkgconfig").is_dir());
}

/// What the rockspec builds and installs is there.
#[test]
fn the_rockspec_is_in_order() {
    let check = "
        local spec = setfenv(assert(loadfile(arg[1])), {})
        local rock = getfenv(spec)
        spec()
        print(rock.package, rock.version, rock.build.type, rock.build.install_target)";
    let rockspec = repository().join(format!("ebbtide-{}-1.rockspec", library_version()));
    let script = scratch("rockspec").join("check.lua");
    std::fs::write(&script, check).expect("the folder was just made");
    let said = text_of(clean("luajit").arg(&script).arg(&rockspec));
    assert_eq!(said, format!("ebbtide\t{}-1\tmake\tinstall-lua\n", library_version()));
}

/// The version of the library that `make` builds.
fn library_version() -> String {
    let manifest = std::fs::read_to_string(repository().join("Cargo.toml")).expect("Cargo.toml");
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = \""));
    line.expect("a version").trim_end_matches('"').to_owned()
}

#[test]
fn uninstall_leaves_nothing() {
    let destination = install("install-uninstall");
    make(&["uninstall"], &destination, PREFIX);
    assert_eq!(everything_in(&destination), Vec::<String>::new());
}

/// The files, links and folders below `folder`, sorted.
fn everything_in(folder: &Path) -> Vec<String> {
    let found =
        text_of(Command::new("find").arg(folder).args(["-mindepth", "1", "-printf", "%P\n"]));
    let mut names: Vec<String> = found.lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// What was there before an installation, and what was put there since, stays.
#[test]
fn uninstall_leaves_the_folders_of_others() {
    installed();
    let root = scratch("install-others");
    std::fs::remove_dir_all(&root).expect("the folder was just made");
    std::fs::create_dir_all(root.join("x/share/lua/5.1/resty")).expect("it can be written");
    let other = root.join("x/share/lua/5.1/resty/other.lua");
    std::fs::write(&other, "return {}").expect("it can be written");
    make(&["install"], &root, PREFIX);
    make(&["uninstall"], &root, PREFIX);
    let kept = ["x", "x/share", "x/share/lua", "x/share/lua/5.1", "x/share/lua/5.1/resty"];
    let kept: Vec<&str> = kept.into_iter().chain(["x/share/lua/5.1/resty/other.lua"]).collect();
    assert_eq!(everything_in(&root), kept);
}

/// However the prefix is spelt, the folders of the system stay.
#[test]
fn a_prefix_with_a_slash_at_its_end_is_the_same_prefix() {
    let plan = |prefix: &str| {
        let mut make = clean("make");
        make.args(["--no-print-directory", "-n", "uninstall", &format!("PREFIX={prefix}")]);
        text_of(make.env_remove("MAKEFLAGS").current_dir(repository()))
    };
    for prefix in ["/usr/local", "/usr", "/opt/some"] {
        assert_eq!(plan(&format!("{prefix}/")), plan(prefix));
    }
}

/// A library that a running program has loaded: the same file under a second name, so that what
/// is written into it is seen, and a byte more than what `make` would put there.
fn loaded(library: &Path) -> PathBuf {
    let old = library.with_extension("loaded");
    let _ = std::fs::remove_file(&old);
    std::fs::hard_link(library, &old).expect("the folder can be written");
    let mut file = std::fs::OpenOptions::new().append(true).open(library).expect("it is there");
    file.write_all(b"old").expect("it can be written");
    old
}

#[test]
fn libraries_are_replaced_by_new_files() {
    let destination = install("install-replace");
    let lib = destination.join("x/lib");
    let files = [
        lib.join("libebbtide.so").canonicalize().expect("it was installed"),
        lib.join("libebbtide_preload.so"),
        release().join("libebbtide_preload.so"),
    ];
    let olds = files.each_ref().map(|file| loaded(file));
    make(&["all"], &destination, PREFIX);
    make(&["install"], &destination, PREFIX);
    for (file, old) in files.iter().zip(&olds) {
        let [new, old] = [file, old].map(|path| std::fs::read(path).expect("it is there"));
        assert!(old.ends_with(b"old"), "{} was written into", file.display());
        assert!(!new.ends_with(b"old"), "{} was not replaced", file.display());
    }
    for old in olds {
        std::fs::remove_file(old).expect("it is there");
    }
    let inode = |file: &PathBuf| std::fs::metadata(file).expect("it is there").ino();
    let before = inode(&files[2]);
    make(&["all"], &destination, PREFIX);
    assert_eq!(inode(&files[2]), before, "what has not changed is not replaced");
}

#[test]
fn a_program_linked_in_the_build_folder_runs() {
    installed();
    let program = scratch("build-folder").join("consumer");
    let mut command = compiler(Language::C);
    command.arg("-I").arg(repository().join("include")).arg("-o").arg(&program);
    command.arg(source("interface/consumer.c")).args(["-x", "none"]).arg("-L").arg(release());
    finish(command.args(["-lebbtide", "-Wl,-rpath"]).arg(release()));
    assert!(text_of(&mut clean(program)).starts_with("ebbtide "));
}
