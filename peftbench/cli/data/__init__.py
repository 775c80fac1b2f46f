"""The actions of the data command, one file for each: imported when it is asked for."""
