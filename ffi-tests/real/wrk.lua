-- wrk: commands come as bodies of answers to requests.
local work = dofile(os.getenv "LAW_WORK")

function response(_, _, body)
  work.run(body)
end
