/*
 * HTML character references. The names are those of HTML 4, the ASCII signs and the Latin letters
 * of HTML 5, and a few signs beyond; a name that is not here stays as it is written. The names of
 * old may lack their semicolon, as the HTML standard rules. Numbers follow the standard as well:
 * 0x80 to 0x9f mean windows-1252, what is no character becomes U+FFFD or nothing.
 */
#include "html_entities.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define NAME_CODES 32 /* no reference is longer */

struct entity {
    const char *name;
    int32_t code;
};

/* Both sorted by name. The old ones may lack their semicolon. */
static const struct entity old_entities[] = {
    {"AElig", 0xc6},  {"AMP", 0x26},    {"Aacute", 0xc1}, {"Acirc", 0xc2},  {"Agrave", 0xc0},
    {"Aring", 0xc5},  {"Atilde", 0xc3}, {"Auml", 0xc4},   {"COPY", 0xa9},   {"Ccedil", 0xc7},
    {"ETH", 0xd0},    {"Eacute", 0xc9}, {"Ecirc", 0xca},  {"Egrave", 0xc8}, {"Euml", 0xcb},
    {"GT", 0x3e},     {"Iacute", 0xcd}, {"Icirc", 0xce},  {"Igrave", 0xcc}, {"Iuml", 0xcf},
    {"LT", 0x3c},     {"Ntilde", 0xd1}, {"Oacute", 0xd3}, {"Ocirc", 0xd4},  {"Ograve", 0xd2},
    {"Oslash", 0xd8}, {"Otilde", 0xd5}, {"Ouml", 0xd6},   {"QUOT", 0x22},   {"REG", 0xae},
    {"THORN", 0xde},  {"Uacute", 0xda}, {"Ucirc", 0xdb},  {"Ugrave", 0xd9}, {"Uuml", 0xdc},
    {"Yacute", 0xdd}, {"aacute", 0xe1}, {"acirc", 0xe2},  {"acute", 0xb4},  {"aelig", 0xe6},
    {"agrave", 0xe0}, {"amp", 0x26},    {"aring", 0xe5},  {"atilde", 0xe3}, {"auml", 0xe4},
    {"brvbar", 0xa6}, {"ccedil", 0xe7}, {"cedil", 0xb8},  {"cent", 0xa2},   {"copy", 0xa9},
    {"curren", 0xa4}, {"deg", 0xb0},    {"divide", 0xf7}, {"eacute", 0xe9}, {"ecirc", 0xea},
    {"egrave", 0xe8}, {"eth", 0xf0},    {"euml", 0xeb},   {"frac12", 0xbd}, {"frac14", 0xbc},
    {"frac34", 0xbe}, {"gt", 0x3e},     {"iacute", 0xed}, {"icirc", 0xee},  {"iexcl", 0xa1},
    {"igrave", 0xec}, {"iquest", 0xbf}, {"iuml", 0xef},   {"laquo", 0xab},  {"lt", 0x3c},
    {"macr", 0xaf},   {"micro", 0xb5},  {"middot", 0xb7}, {"nbsp", 0xa0},   {"not", 0xac},
    {"ntilde", 0xf1}, {"oacute", 0xf3}, {"ocirc", 0xf4},  {"ograve", 0xf2}, {"ordf", 0xaa},
    {"ordm", 0xba},   {"oslash", 0xf8}, {"otilde", 0xf5}, {"ouml", 0xf6},   {"para", 0xb6},
    {"plusmn", 0xb1}, {"pound", 0xa3},  {"quot", 0x22},   {"raquo", 0xbb},  {"reg", 0xae},
    {"sect", 0xa7},   {"shy", 0xad},    {"sup1", 0xb9},   {"sup2", 0xb2},   {"sup3", 0xb3},
    {"szlig", 0xdf},  {"thorn", 0xfe},  {"times", 0xd7},  {"uacute", 0xfa}, {"ucirc", 0xfb},
    {"ugrave", 0xf9}, {"uml", 0xa8},    {"uuml", 0xfc},   {"yacute", 0xfd}, {"yen", 0xa5},
    {"yuml", 0xff},
};

static const struct entity new_entities[] = {
    {"Abreve", 0x102},   {"Alpha", 0x391},
    {"Amacr", 0x100},    {"Aogon", 0x104},
    {"Beta", 0x392},     {"Cacute", 0x106},
    {"Ccaron", 0x10c},   {"Chi", 0x3a7},
    {"Dagger", 0x2021},  {"Dcaron", 0x10e},
    {"Delta", 0x394},    {"Dstrok", 0x110},
    {"Ecaron", 0x11a},   {"Emacr", 0x112},
    {"Eogon", 0x118},    {"Epsilon", 0x395},
    {"Eta", 0x397},      {"Gamma", 0x393},
    {"Gbreve", 0x11e},   {"Hat", 0x5e},
    {"IJlig", 0x132},    {"Idot", 0x130},
    {"Imacr", 0x12a},    {"Iota", 0x399},
    {"Kappa", 0x39a},    {"Lambda", 0x39b},
    {"Lstrok", 0x141},   {"Mu", 0x39c},
    {"Nacute", 0x143},   {"Ncaron", 0x147},
    {"NewLine", 0xa},    {"NonBreakingSpace", 0xa0},
    {"Nu", 0x39d},       {"OElig", 0x152},
    {"Odblac", 0x150},   {"Omacr", 0x14c},
    {"Omega", 0x3a9},    {"Omicron", 0x39f},
    {"Phi", 0x3a6},      {"Pi", 0x3a0},
    {"Prime", 0x2033},   {"Psi", 0x3a8},
    {"Rcaron", 0x158},   {"Rho", 0x3a1},
    {"Sacute", 0x15a},   {"Scaron", 0x160},
    {"Scedil", 0x15e},   {"Sigma", 0x3a3},
    {"Tab", 0x9},        {"Tau", 0x3a4},
    {"Tcaron", 0x164},   {"Theta", 0x398},
    {"Udblac", 0x170},   {"Umacr", 0x16a},
    {"Upsilon", 0x3a5},  {"Uring", 0x16e},
    {"Xi", 0x39e},       {"Yuml", 0x178},
    {"Zacute", 0x179},   {"Zcaron", 0x17d},
    {"Zdot", 0x17b},     {"ZeroWidthSpace", 0x200b},
    {"Zeta", 0x396},     {"abreve", 0x103},
    {"alefsym", 0x2135}, {"alpha", 0x3b1},
    {"amacr", 0x101},    {"and", 0x2227},
    {"ang", 0x2220},     {"aogon", 0x105},
    {"apos", 0x27},      {"ast", 0x2a},
    {"asymp", 0x2248},   {"bdquo", 0x201e},
    {"beta", 0x3b2},     {"bsol", 0x5c},
    {"bull", 0x2022},    {"cacute", 0x107},
    {"cap", 0x2229},     {"ccaron", 0x10d},
    {"check", 0x2713},   {"chi", 0x3c7},
    {"circ", 0x2c6},     {"clubs", 0x2663},
    {"colon", 0x3a},     {"comma", 0x2c},
    {"commat", 0x40},    {"cong", 0x2245},
    {"crarr", 0x21b5},   {"cup", 0x222a},
    {"dArr", 0x21d3},    {"dagger", 0x2020},
    {"darr", 0x2193},    {"dash", 0x2010},
    {"dcaron", 0x10f},   {"delta", 0x3b4},
    {"diams", 0x2666},   {"dollar", 0x24},
    {"dstrok", 0x111},   {"ecaron", 0x11b},
    {"emacr", 0x113},    {"empty", 0x2205},
    {"emsp", 0x2003},    {"emsp13", 0x2004},
    {"emsp14", 0x2005},  {"ensp", 0x2002},
    {"eogon", 0x119},    {"epsilon", 0x3b5},
    {"equals", 0x3d},    {"equiv", 0x2261},
    {"eta", 0x3b7},      {"euro", 0x20ac},
    {"excl", 0x21},      {"exist", 0x2203},
    {"female", 0x2640},  {"ffilig", 0xfb03},
    {"fflig", 0xfb00},   {"ffllig", 0xfb04},
    {"filig", 0xfb01},   {"fllig", 0xfb02},
    {"fnof", 0x192},     {"forall", 0x2200},
    {"frasl", 0x2044},   {"gamma", 0x3b3},
    {"gbreve", 0x11f},   {"ge", 0x2265},
    {"grave", 0x60},     {"hArr", 0x21d4},
    {"hairsp", 0x200a},  {"half", 0xbd},
    {"harr", 0x2194},    {"hearts", 0x2665},
    {"hellip", 0x2026},  {"horbar", 0x2015},
    {"hyphen", 0x2010},  {"ijlig", 0x133},
    {"imacr", 0x12b},    {"image", 0x2111},
    {"imath", 0x131},    {"infin", 0x221e},
    {"inodot", 0x131},   {"int", 0x222b},
    {"iota", 0x3b9},     {"isin", 0x2208},
    {"kappa", 0x3ba},    {"lArr", 0x21d0},
    {"lambda", 0x3bb},   {"lang", 0x2329},
    {"larr", 0x2190},    {"lbrace", 0x7b},
    {"lbrack", 0x5b},    {"lceil", 0x2308},
    {"lcub", 0x7b},      {"ldquo", 0x201c},
    {"le", 0x2264},      {"lfloor", 0x230a},
    {"lowast", 0x2217},  {"lowbar", 0x5f},
    {"loz", 0x25ca},     {"lpar", 0x28},
    {"lrm", 0x200e},     {"lsaquo", 0x2039},
    {"lsqb", 0x5b},      {"lsquo", 0x2018},
    {"lstrok", 0x142},   {"male", 0x2642},
    {"mdash", 0x2014},   {"midast", 0x2a},
    {"minus", 0x2212},   {"mu", 0x3bc},
    {"nabla", 0x2207},   {"nacute", 0x144},
    {"ncaron", 0x148},   {"ndash", 0x2013},
    {"ne", 0x2260},      {"ni", 0x220b},
    {"notin", 0x2209},   {"nsub", 0x2284},
    {"nu", 0x3bd},       {"num", 0x23},
    {"numsp", 0x2007},   {"odblac", 0x151},
    {"oelig", 0x153},    {"oline", 0x203e},
    {"omacr", 0x14d},    {"omega", 0x3c9},
    {"omicron", 0x3bf},  {"oplus", 0x2295},
    {"or", 0x2228},      {"otimes", 0x2297},
    {"part", 0x2202},    {"percnt", 0x25},
    {"period", 0x2e},    {"permil", 0x2030},
    {"perp", 0x22a5},    {"phi", 0x3c6},
    {"phone", 0x260e},   {"pi", 0x3c0},
    {"piv", 0x3d6},      {"plus", 0x2b},
    {"prime", 0x2032},   {"prod", 0x220f},
    {"prop", 0x221d},    {"psi", 0x3c8},
    {"puncsp", 0x2008},  {"quest", 0x3f},
    {"rArr", 0x21d2},    {"radic", 0x221a},
    {"rang", 0x232a},    {"rarr", 0x2192},
    {"rbrace", 0x7d},    {"rbrack", 0x5d},
    {"rcaron", 0x159},   {"rceil", 0x2309},
    {"rcub", 0x7d},      {"rdquo", 0x201d},
    {"real", 0x211c},    {"rfloor", 0x230b},
    {"rho", 0x3c1},      {"rlm", 0x200f},
    {"rpar", 0x29},      {"rsaquo", 0x203a},
    {"rsqb", 0x5d},      {"rsquo", 0x2019},
    {"sacute", 0x15b},   {"sbquo", 0x201a},
    {"scaron", 0x161},   {"scedil", 0x15f},
    {"sdot", 0x22c5},    {"semi", 0x3b},
    {"sigma", 0x3c3},    {"sigmaf", 0x3c2},
    {"sim", 0x223c},     {"sol", 0x2f},
    {"spades", 0x2660},  {"star", 0x2606},
    {"starf", 0x2605},   {"sub", 0x2282},
    {"sube", 0x2286},    {"sum", 0x2211},
    {"sung", 0x266a},    {"sup", 0x2283},
    {"supe", 0x2287},    {"tau", 0x3c4},
    {"tcaron", 0x165},   {"there4", 0x2234},
    {"theta", 0x3b8},    {"thetasym", 0x3d1},
    {"thinsp", 0x2009},  {"tilde", 0x2dc},
    {"trade", 0x2122},   {"uArr", 0x21d1},
    {"uarr", 0x2191},    {"udblac", 0x171},
    {"umacr", 0x16b},    {"upsih", 0x3d2},
    {"upsilon", 0x3c5},  {"uring", 0x16f},
    {"verbar", 0x7c},    {"vert", 0x7c},
    {"weierp", 0x2118},  {"xi", 0x3be},
    {"zacute", 0x17a},   {"zcaron", 0x17e},
    {"zdot", 0x17c},     {"zeta", 0x3b6},
    {"zwj", 0x200d},     {"zwnj", 0x200c},
};

int32_t html_windows_1252(int32_t code)
{
    static const uint16_t map[32] = {0x20ac, 0x81,   0x201a, 0x192,  0x201e, 0x2026, 0x2020, 0x2021,
                                     0x2c6,  0x2030, 0x160,  0x2039, 0x152,  0x8d,   0x17d,  0x8f,
                                     0x90,   0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014,
                                     0x2dc,  0x2122, 0x161,  0x203a, 0x153,  0x9d,   0x17e,  0x178};
    return code >= 0x80 && code <= 0x9f ? map[code - 0x80] : code;
}

static int by_name(const void *key, const void *entry)
{
    return strcmp(key, ((const struct entity *)entry)->name);
}

/* The entity of these codes, with *old where it may lack its semicolon; NULL for none. */
static const struct entity *find_entity(const int32_t *codes, size_t length, bool *old)
{
    char name[NAME_CODES + 1];
    if (length == 0 || length > NAME_CODES)
        return NULL;
    for (size_t i = 0; i < length; i++) {
        if (codes[i] <= 0 || codes[i] > 0x7f)
            return NULL;
        name[i] = (char)codes[i];
    }
    name[length] = '\0';
    const size_t size = sizeof(struct entity);
    const struct entity *found =
        bsearch(name, old_entities, sizeof old_entities / size, size, by_name);
    *old = found != NULL;
    return found ? found : bsearch(name, new_entities, sizeof new_entities / size, size, by_name);
}

/* The character a number stands for; 0 for none. */
static int32_t number_to_code(int64_t number)
{
    if (number == 0 || (number >= 0xd800 && number <= 0xdfff) || number > 0x10ffff)
        return 0xfffd;
    int32_t code = (int32_t)number;
    if (code >= 0x80 && code <= 0x9f)
        return html_windows_1252(code);
    bool control = code < 0x20 && code != '\t' && code != '\n' && code != '\f' && code != '\r';
    bool no_character = (code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) == 0xfffe;
    return control || code == 0x7f || no_character ? 0 : code;
}

static int digit_value(int32_t code, int base)
{
    if (code >= '0' && code <= '9')
        return code - '0';
    int32_t lower = code | 0x20;
    return base == 16 && lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* at[0] is '#'. How many codes the reference takes after the '&'; 0 for none. */
static size_t read_number(const int32_t *at, size_t left, int64_t *number, bool *semicolon)
{
    int base = left > 1 && (at[1] | 0x20) == 'x' ? 16 : 10;
    size_t first = base == 16 ? 2 : 1, i = first;
    for (*number = 0; i < left && digit_value(at[i], base) >= 0; i++)
        if (*number <= 0x10ffff)
            *number = *number * base + digit_value(at[i], base);
    if (i == first)
        return 0;
    *semicolon = i < left && at[i] == ';';
    return i + *semicolon;
}

static bool ends_name(int32_t code)
{
    return code == '\t' || code == '\n' || code == '\f' || code == ' ' || code == '<' ||
           code == '&' || code == '#' || code == ';';
}

/* A named reference after the '&': the whole name with its semicolon, or the longest old name that
 * begins it. How many codes it takes; 0 for none. */
static size_t read_name(const int32_t *at, size_t left, int32_t *code)
{
    size_t length = 0;
    while (length < left && length < NAME_CODES && !ends_name(at[length]))
        length++;
    bool old;
    const struct entity *entity = find_entity(at, length, &old);
    if (entity && length < left && at[length] == ';') {
        *code = entity->code;
        return length + 1;
    }
    for (; length > 1; length--) {
        entity = find_entity(at, length, &old);
        if (entity && old) {
            *code = entity->code;
            return length;
        }
    }
    return 0;
}

void html_unescape(struct codepoints *text)
{
    struct codepoints out = {0};
    for (size_t i = 0; i < text->count;) {
        const int32_t *rest = text->at + i + 1;
        size_t left = text->count - i - 1, used = 0;
        int32_t code = 0;
        if (text->at[i] == '&' && left > 0) {
            int64_t number;
            bool semicolon;
            if (rest[0] != '#')
                used = read_name(rest, left, &code);
            else if ((used = read_number(rest, left, &number, &semicolon)))
                code = number_to_code(number);
        }
        if (used == 0)
            code = text->at[i];
        if (code != 0)
            codepoints_add(&out, code);
        i += used + 1;
    }
    codepoints_move(text, &out);
}

/* A name in capitals that is none itself: the capital letter of the name in small ones. */
static int32_t capital_entity(const int32_t *codes, size_t length)
{
    int32_t small[NAME_CODES];
    if (length > NAME_CODES)
        return 0;
    for (size_t i = 0; i < length; i++) {
        if (codes[i] >= 'a' && codes[i] <= 'z')
            return 0;
        small[i] = codes[i] >= 'A' && codes[i] <= 'Z' ? codes[i] | 0x20 : codes[i];
    }
    bool old;
    const struct entity *entity = find_entity(small, length, &old);
    return entity ? utf8proc_toupper(entity->code) : 0;
}

static bool is_alphanumeric(int32_t code)
{
    return (code >= '0' && code <= '9') || ((code | 0x20) >= 'a' && (code | 0x20) <= 'z');
}

/* After the '&'; how many codes the reference takes, 0 for none. */
static size_t read_careful(const int32_t *at, size_t left, int32_t *code)
{
    if (left > 0 && at[0] == '#') {
        int64_t number;
        bool semicolon = false;
        size_t used = read_number(at, left, &number, &semicolon);
        if (!semicolon)
            return 0;
        *code = number_to_code(number);
        return used;
    }
    size_t length = 0;
    while (length < left && is_alphanumeric(at[length]))
        length++;
    if (length == left || at[length] != ';')
        return 0;
    bool old;
    const struct entity *entity = find_entity(at, length, &old);
    *code = entity ? entity->code : capital_entity(at, length);
    return *code ? length + 1 : 0;
}

void html_unescape_careful(struct codepoints *text)
{
    struct codepoints out = {0};
    for (size_t i = 0; i < text->count;) {
        int32_t code = 0;
        size_t used = 0;
        if (text->at[i] == '&')
            used = read_careful(text->at + i + 1, text->count - i - 1, &code);
        if (used == 0)
            code = text->at[i];
        if (code != 0)
            codepoints_add(&out, code);
        i += used + 1;
    }
    codepoints_move(text, &out);
}
