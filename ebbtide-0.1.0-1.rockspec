rockspec_format = "3.0"
package = "ebbtide"
version = "0.1.0-1"

source = {
   url = "git+file://.",
}

description = {
   summary = "The memory allocator for LuaJIT that gives memory back",
   detailed = [[
      Shows what LuaJIT's own allocator holds, gives its free pages back to the kernel in place, and
      moves a running VM to a heap that follows the load up and down. Building it takes a Rust
      toolchain.
   ]],
   license = "MIT OR Apache-2.0",
   labels = { "luajit", "openresty", "memory", "allocator" },
}

supported_platforms = { "linux" }

dependencies = {
   "lua == 5.1",
}

build = {
   type = "make",
   build_target = "all",
   install_target = "install-lua",
   install_variables = {
      LUA_LIB_DIR = "$(LUADIR)",
      LUA_CMODULE_DIR = "$(LIBDIR)",
   },
}
