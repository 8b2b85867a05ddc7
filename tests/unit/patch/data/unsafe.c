/* A file with everything that makes a place unsafe:
 * parentheses ( in comments, "quotes" and 'apostrophes'
 */
#define WARN(x, ...) ((x) ? warn(__LINE__, "f.c") : 0)
#define TWO_LINES(a) \
	do {              \
		warn(a, "(" ); \
	} while (0)
#define CALL \
	warn
extern int warn(int, const char *);
extern int many(int, int, int);
#ifdef NOT_DEFINED
# define LINE_NUMBER (
it's an error to "compile this
#elif defined(NOR_THIS)
#error don't (
#else
# define LINE_NUMBER __LINE__
#endif

static const char text[] = "a ( string \
	continued on a second line // no comment";
static const char close = ')', quote = '"', other = '\'';

int first(int x)
{
	// a comment ( continued \
	   here )
	return WARN(x);
}

int second(int x)
{
	int y = many(x,
		     LINE_NUMBER,
		     many(1, /* ( */
			  2, 3));
	TWO_LINES(__LINE__);
#ifdef NOT_DEFINED
	if (many(1, 2,
#else
	if (many(3, 4,
#endif
		 5))
		return WARN(y);
	CALL
	(LINE_NUMBER, "x");
	return first(__LINE__);
}

struct entry { int line; const char *name; } table[] = {
	{ __LINE__, "one" },
	{
		__LINE__,
		"two" },
};

#if 0
#  if 1
nothing ( here
#  endif
#else
int third(int x) { return WARN(x) + __LINE__; }
#endif
int fourth(int x) { return WARN(x) + __LINE__; }
