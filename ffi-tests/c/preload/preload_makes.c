/* Makes a VM through whatever libluajit it is linked with, and closes it. */

void *luaL_newstate(void);
void lua_close(void *L);

int main(void)
{
  void *L = luaL_newstate();

  if (L != 0) {
    lua_close(L);
  }
  return L == 0;
}
