/* Takes 50 blocks of 64 KiB from the heap, as soon as it runs. */
#include <stdlib.h>

int main(void)
{
    for (int i = 0; i < 50; i++)
        if (malloc(65536) == NULL)
            return 1;
    return 0;
}
