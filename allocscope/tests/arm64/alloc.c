/* A program with all of the C library in it. */
#include <stdlib.h>

int main(void) { return malloc(65536) == 0; }
