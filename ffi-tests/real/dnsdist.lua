-- dnsdist: commands come as names in queries, and each query goes through Lua.
local work = dofile(os.getenv "LAW_WORK")

setLocal("127.0.0.1:" .. os.getenv "LAW_PORT")
setSecurityPollSuffix ""
addAction(
  AllRule(),
  LuaAction(function(query)
    work.run(query.qname:toString())
    return DNSAction.Refused, ""
  end)
)
