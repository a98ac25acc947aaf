/* What libraries are taken for: see test_missing_libraries.c. */
int any_library_number(void);

int any_library_number(void)
{
    return 1;
}
